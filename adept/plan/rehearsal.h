// What the parts of a step cost, measured with the engine's own operations: a layer of the model's shape at a time,
// with made-up weights and a few tokens. Bytes that a graph keeps, and time, grow with the tokens of a micro-batch.
//
// Legend: N tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

#include "adept/config/run_config.h"
#include "adept/core/function_ref.h"
#include "adept/model/batch.h"
#include "adept/model/config.h"
#include "adept/model/decoder.h"

namespace adept::plan {

/// What a step does with a layer, or with the head.
enum class Use {
  kWithoutGraph,  ///< below the lowest trained layer: forward only
  kFrozen,        ///< the gradient passes through it
  kTrained,
};

/// Costs of a part for N tokens: bytes and seconds are linear in N.
struct PartCost {
  double kept = 0;      ///< bytes for each token that the graph keeps until the backward pass
  double forward = 0;   ///< bytes for each token above those before, at the peak of the forward pass
  double backward = 0;  ///< bytes for each token above what is kept, at the peak of the backward pass
  double fixed = 0;     ///< bytes at these peaks that do not depend on N: buffers of the kernels, own gradients
  double chunk = 0;     ///< bytes for each token of a chunk (nn::head_chunk_tokens), at the peak of the forward pass
  double seconds = 0;   ///< for each token, forward and backward
};

struct RehearsalOptions {
  const config::RunConfig& config;
  const model::ModelConfig& model;
  at::ScalarType dtype = at::kFloat;         ///< of the computation
  at::ScalarType stored_dtype = at::kFloat;  ///< of frozen matrices
  std::int64_t rows = 1, tokens = 512;       ///< N = rows * tokens; below about 512, bytes are not linear in N
  bool is_timed = false;                     ///< the best of several passes; otherwise one, and no seconds
  bool for_gpu = false;                      ///< bytes of the head are those that it takes on a GPU
};

/// Where a layer is.
struct Place {
  bool is_lowest = false;       ///< of those with a graph: what comes in is kept for it alone
  bool input_has_graph = true;  ///< the gradient of what comes in is wanted

  auto operator<=>(const Place&) const = default;
};

/// Of layer `layer` of the model. LoRA adds its adapters where `use` is kTrained.
PartCost rehearse_layer(const RehearsalOptions& options, std::size_t layer, Use use, const Place& place = {});

/// Of the final norm, the head and the loss. On a CPU, only a trained head has the logits of whole chunks; on a GPU,
/// where operations of ATen compute them, every head has.
PartCost rehearse_head(const RehearsalOptions& options, Use use);

/// What a measurement takes above the weights for N tokens and L layers: bytes, linear in both.
struct MeasurementCost {
  double fixed = 0, token = 0;           ///< and for each token
  double layer = 0, token_of_layer = 0;  ///< kept of each layer, and for each of its tokens
  double kept(double n, double layers) const { return (layer + token_of_layer * n) * layers; }
  double at(double n, double layers) const { return fixed + token * n + kept(n, layers); }
};

/// Of `measure` on models of layers like layer `layer`, without a head: a vocabulary of one token. The batch has one
/// row.
MeasurementCost rehearse_measurement(const RehearsalOptions& options, std::size_t layer,
                                     FunctionRef<void(const model::Decoder&, const model::Batch&)> measure);

/// Seconds of the optimizer's update and the gradient norm for each trained parameter.
double rehearse_update();

}  // namespace adept::plan
