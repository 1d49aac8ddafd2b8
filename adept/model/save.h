// From weights to a model directory that transformers loads.
#pragma once

#include <filesystem>
#include <span>

#include "adept/core/json.h"
#include "adept/io/weight_files.h"

namespace adept::model {

/// config.json with the key order of `config`, two blanks of indentation, as transformers writes it. Atomic.
void write_config_json(const std::filesystem::path& model_dir, const Json& config);

/// Writes a model directory: weights, config.json, and the other files of `source_dir` (io::copy_companion_files).
/// `read` as in io::write_weight_files. To write atomically, use an AtomicDirectory.
void write_model_files(const std::filesystem::path& model_dir, std::span<const io::TensorView> tensors,
                       const Json& config, const std::filesystem::path& source_dir, const io::TensorReader& read = {});

}  // namespace adept::model
