#include "adept/model/import_gguf.h"

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/core/signals.h"
#include "adept/io/atomic_file.h"
#include "adept/io/gguf.h"
#include "adept/io/weight_files.h"
#include "adept/model/import_gguf_config.h"
#include "adept/model/import_gguf_tensors.h"
#include "adept/model/import_gguf_tokenizer.h"

namespace adept::model {
namespace {

const char* torch_name(DType dtype) {
  if (dtype == DType::kF32) return "float32";
  if (dtype == DType::kBF16) return "bfloat16";
  if (dtype == DType::kF16) return "float16";
  throw ConfigError("weights cannot be written as {}; expected F32, BF16 or F16.", safetensors_name(dtype));
}

// All weights in the output's type, with the memory that they are in.
struct ConvertedWeights {
  std::unique_ptr<std::byte[]> memory;
  std::vector<io::TensorView> tensors;
  std::int64_t num_elements = 0;
};

ConvertedWeights convert(const io::GgufFile& file, const std::vector<GgufTensorPlan>& plan, DType dtype,
                         Progress& progress) {
  ConvertedWeights weights;
  for (const GgufTensorPlan& item : plan) weights.num_elements += item.source->num_elements();
  weights.memory =
      std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(weights.num_elements) * dtype_size(dtype));
  std::byte* next = weights.memory.get();
  std::vector<std::string> problems;
  for (const GgufTensorPlan& item : plan) {
    throw_if_interrupted();
    const auto size = static_cast<std::size_t>(item.source->num_elements()) * dtype_size(dtype);
    const std::span<std::byte> out(next, size);
    if (std::string problem = convert_gguf_tensor(item, dtype, out); !problem.empty())
      problems.push_back(std::move(problem));
    weights.tensors.push_back({item.name, dtype, item.source->shape, out});
    next += size;
    progress.update(std::ssize(weights.tensors));
  }
  throw_gguf_problems(file.where(), problems);
  return weights;
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
  const ConvertedWeights weights = convert(*file, plan, options.dtype, progress);
  io::write_weight_files(directory.path(), weights.tensors);
  directory.commit();
  progress.finish();

  return {model.model_type, tokenizer.pre_tokenizer, model.num_layers, weights.num_elements, model.vocab_size};
}

}  // namespace adept::model
