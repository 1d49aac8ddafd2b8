#include "adept/model/gguf/import.h"

#include <fmt/format.h>

#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/core/signals.h"
#include "adept/io/atomic_file.h"
#include "adept/io/gguf.h"
#include "adept/io/weight_files.h"
#include "adept/model/gguf/config.h"
#include "adept/model/gguf/tensors.h"
#include "adept/model/gguf/tokenizer.h"

namespace adept::model {
namespace {

const char* torch_name(DType dtype) {
  if (dtype == DType::kF32) return "float32";
  if (dtype == DType::kBF16) return "bfloat16";
  if (dtype == DType::kF16) return "float16";
  throw ConfigError("weights cannot be written as {}; expected F32, BF16 or F16.", safetensors_name(dtype));
}

// Converts and writes the weights tensor by tensor, so that only one of them is in memory. Throws what is wrong with
// their values once all have been looked at.
void write_weights(const std::filesystem::path& directory, const io::GgufFile& file,
                   const std::vector<GgufTensorPlan>& plan, DType dtype, Progress& progress) {
  std::vector<io::TensorView> tensors;
  std::map<std::string_view, const GgufTensorPlan*> by_name;
  for (const GgufTensorPlan& item : plan) {
    tensors.push_back({item.name, dtype, item.source->shape, {}});
    by_name[item.name] = &item;
  }
  std::vector<std::string> problems;
  std::vector<std::byte> bytes;
  std::int64_t done = 0;
  progress.set_total(std::ssize(tensors));
  const auto read = [&](const io::TensorView& tensor) -> std::span<const std::byte> {
    throw_if_interrupted();
    bytes.resize(tensor.num_bytes());
    if (std::string problem = convert_gguf_tensor(*by_name.at(tensor.name), dtype, bytes); !problem.empty())
      problems.push_back(std::move(problem));
    progress.update(++done);
    return bytes;
  };
  io::write_weight_files(directory, tensors, io::kMaxShardBytes, read);
  throw_gguf_problems(file.where(), problems);
}

}  // namespace

ImportedModel import_gguf(const std::filesystem::path& gguf, const std::filesystem::path& out_dir,
                          const ImportGgufOptions& options, Progress& progress) {
  const char* dtype_name = torch_name(options.dtype);
  const auto file = io::GgufFile::open(gguf);
  GgufModel model = read_gguf_model(*file);
  const std::vector<GgufTensorPlan> plan = plan_gguf_tensors(*file, model);
  const GgufTokenizer tokenizer = read_gguf_tokenizer(*file, model);
  model.config["torch_dtype"] = dtype_name;

  io::AtomicDirectory directory(out_dir, options.replace_existing ? io::OnExisting::kReplace : io::OnExisting::kFail);
  const auto write_json = [&](const char* name, const Json& json) {
    io::write_file_atomically(directory.path() / name, json.dump(2) + "\n");
  };
  write_json("config.json", model.config);
  write_json("generation_config.json", model.generation_config);
  io::write_file_atomically(directory.path() / "tokenizer.json", tokenizer.tokenizer_json);
  write_json("tokenizer_config.json", tokenizer.tokenizer_config);
  write_json("special_tokens_map.json", tokenizer.special_tokens_map);
  write_weights(directory.path(), *file, plan, options.dtype, progress);
  directory.commit();
  progress.finish();

  std::int64_t num_parameters = 0;
  for (const GgufTensorPlan& item : plan) num_parameters += item.source->num_elements();
  return {model.model_type, tokenizer.pre_tokenizer, model.num_layers, num_parameters, model.vocab_size};
}

}  // namespace adept::model
