// The floating point operations that a training step cannot do without: the products with weights and of attention,
// forward and backward, per token of a sequence.
#pragma once

#include <cstdint>
#include <span>

#include "adept/model/config.h"
#include "adept/model/weights.h"

namespace adept::model {

struct StepCost {
  double prefix_flops = 0;  ///< embed to the lowest trained layer, which an activation cache may have
  double flops = 0;         ///< everything else
};

/// Of the tensors that require a gradient, for sequences of `seq_len` tokens: a frozen matrix has no weight gradient
/// (but of its trained rows), and no gradient is computed below the lowest trained tensor. `trains_a_token`: the row of
/// one of the tokens trains, so the gradient flows to the embedding.
StepCost step_cost(const Weights& weights, std::int64_t lowest_layer, std::int64_t seq_len,
                   bool trains_a_token = false);

/// A layer, forward; with `gradient` also that of its input; where it trains, of all its weights.
double layer_flops(const Layer& layer, std::int64_t seq_len, bool gradient, bool trains);
/// Likewise the head.
double head_flops(const ModelConfig& config, bool gradient);

/// A step that trains identity copies after these layers of `base`: ascending, repeated per copy.
double copies_step_flops(const ModelConfig& base, std::int64_t seq_len, std::span<const int> after);

/// A step that trains every parameter.
double full_step_flops(const ModelConfig& config, std::int64_t seq_len);

}  // namespace adept::model
