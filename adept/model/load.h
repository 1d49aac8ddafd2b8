// From a model directory to weights in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

#include "adept/io/weight_files.h"
#include "adept/model/config.h"
#include "adept/model/decoder.h"
#include "adept/model/weights.h"

namespace adept::model {

struct LoadOptions {
  at::ScalarType dtype = at::kFloat;  ///< compute dtype: fp32 or bf16
  at::Device device = at::kCPU;
  /// Also matrices are converted to the compute dtype where that is wider than the file's. Without it they are widened
  /// for each product: half of the memory, and hardly slower where many tokens go through at once.
  bool widen_matrices = false;
  /// Gets the parameters of each layer as soon as they are loaded, and may replace the tensors: only one layer is in
  /// memory at a time if it keeps none of them.
  std::function<void(std::int64_t layer, std::span<const Parameter> parameters)> on_layer{};
};

/// The weights of `model_dir` under the names of the table: a tied pair may be stored under the head's name alone.
/// Throws DataError as io::WeightFiles::open does.
io::WeightFiles open_weights(const ModelConfig& config, const std::filesystem::path& model_dir);

/// Throws one DataError for all missing, unexpected or mis-shaped tensors, with the difference between the names if it
/// is recognized. Also accepts rotary inv_freq buffers, and the lm_head.weight of a tied model if it equals the
/// embeddings. For code that uses weights without load_weights, which checks them too.
void check_weights(const ModelConfig& config, const io::WeightFiles& files);

/// Loads every parameter of `config` from `files`, converted once to the compute dtype. On a CPU, a tensor is the
/// file's read-only mapping itself if the file has that dtype, or a narrower one for a matrix: the file must not change
/// while the weights are in use.
///
/// Throws DataError as check_weights does, and for a value that the compute dtype cannot hold.
Weights load_weights(const ModelConfig& config, const io::WeightFiles& files, const LoadOptions& options = {});

/// The model of a directory: read_model_config, open_weights and load_weights; or of its files, where these are open.
Decoder load_decoder(const std::filesystem::path& model_dir, const LoadOptions& options = {});
Decoder load_decoder(const std::filesystem::path& model_dir, const io::WeightFiles& files,
                     const LoadOptions& options = {});

}  // namespace adept::model
