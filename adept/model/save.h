// From weights to a model directory that transformers loads.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "adept/io/weight_files.h"
#include "adept/model/config.h"
#include "adept/model/weights.h"

namespace adept::model {

/// config.json with the key order of `config`, two blanks of indentation, as transformers writes it. Atomic.
void write_config_json(const std::filesystem::path& model_dir, const Json& config);

/// Writes a model directory: weights, config.json, and the other files of `source_dir` (io::copy_companion_files).
/// `read` as in io::write_weight_files. To write atomically, use an AtomicDirectory.
void write_model_files(const std::filesystem::path& model_dir, std::span<const io::TensorView> tensors,
                       const Json& config, const std::filesystem::path& source_dir, const io::TensorReader& read = {});

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
void save_model(const std::filesystem::path& model_dir, const ModelConfig& config, const Weights& weights,
                const SaveOptions& options);

}  // namespace adept::model
