// From weights in memory to a model directory.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/io/weight_files.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "adept/model/weights.h"

namespace adept::test {

/// Writes config.source and every parameter of `weights` into model_dir (which exists).
///
/// `source_name` tells for a parameter under which name `source` holds the same tensor; then its bytes are copied from
/// there, in the dtype of the file. An empty answer means that the tensor is new or has been changed: it is written
/// from `weights`, converted to `new_dtype`. Without `source` everything is written from `weights`.
struct SaveOptions {
  const io::WeightFiles* source = nullptr;
  std::function<std::string(const std::string& name)> source_name = [](const std::string& name) { return name; };
  DType new_dtype = DType::kF32;
  std::int64_t max_shard_bytes = io::kMaxShardBytes;
};

inline void save_model(const std::filesystem::path& model_dir, const model::ModelConfig& config,
                       const model::Weights& weights, const SaveOptions& options) {
  model::Weights shared = weights;
  std::vector<io::TensorView> views;
  std::vector<at::Tensor> converted;  // keeps the bytes that `views` points to
  for (const model::Parameter& parameter : model::named_parameters(config, shared)) {
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
    converted.push_back(model::to_type(parameter.tensor->detach().cpu(), model::to_scalar_type(options.new_dtype), name,
                                       "Choose another element type.")
                            .contiguous());
    views.push_back(model::as_view(parameter.name, converted.back()));
  }
  io::write_weight_files(model_dir, views, options.max_shard_bytes);
  model::write_config_json(model_dir, config.source);
}

}  // namespace adept::test
