#include "adept/model/save.h"

#include "adept/core/error.h"
#include "adept/io/atomic_file.h"
#include "adept/io/companion_files.h"
#include "adept/model/torch_tensors.h"

namespace adept::model {

void write_config_json(const std::filesystem::path& model_dir, const Json& config) {
  const std::string text = config.dump(2) + "\n";
  io::write_file_atomically(model_dir / "config.json", text);
}

void write_model_files(const std::filesystem::path& model_dir, std::span<const io::TensorView> tensors,
                       const Json& config, const std::filesystem::path& source_dir, const io::TensorReader& read) {
  io::write_weight_files(model_dir, tensors, io::kMaxShardBytes, read);
  write_config_json(model_dir, config);
  io::copy_companion_files(source_dir, model_dir);
}

void save_model(const std::filesystem::path& model_dir, const ModelConfig& config, const Weights& weights,
                const SaveOptions& options) {
  Weights shared = weights;
  std::vector<io::TensorView> views;
  std::vector<at::Tensor> converted;  // keeps the bytes that `views` points to
  for (const Parameter& parameter : named_parameters(config, shared)) {
    const std::string source_name = options.source == nullptr ? std::string() : options.source_name(parameter.name);
    if (!source_name.empty()) {
      io::TensorView view = options.source->at(source_name);
      ADEPT_CHECK(view.shape == parameter.shape, "{} and its source {} differ in shape", parameter.name, source_name);
      view.name = parameter.name;
      views.push_back(std::move(view));
      continue;
    }
    ADEPT_CHECK(parameter.tensor->defined() && parameter.tensor->sizes() == parameter.shape, "{} has the wrong shape",
                parameter.name);
    const auto name = [&] { return parameter.name; };
    converted.push_back(to_type(parameter.tensor->detach().cpu(), to_scalar_type(options.new_dtype), name,
                                "Choose another element type.")
                            .contiguous());
    views.push_back(as_view(parameter.name, converted.back()));
  }
  io::write_weight_files(model_dir, views, options.max_shard_bytes);
  write_config_json(model_dir, config.source);
}

}  // namespace adept::model
