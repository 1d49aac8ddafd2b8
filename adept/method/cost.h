// What a training step costs, predicted from the shape of a model and where its copies are.
#pragma once

#include <cstdint>
#include <span>

#include "adept/model/config.h"

namespace adept::method {

/// Floating point operations per token of one step that trains `num_copies` copies of an L-layer model, when sequences
/// have `seq_len` tokens; `lowest_source` is the base layer that the lowest copy is behind.
///
/// With f = 2P + a for the forward of a layer (P weights of its matrices, a its attention products), h = 2 D V for the
/// head, and n = L - 1 - lowest_source frozen layers above the lowest copy: forward (L + k) f + h, backward h + n (2P +
/// 2a) + k (4P + 2a). Below the lowest copy there is no backward, and frozen layers have no weight gradient.
double step_flops_per_token(const model::ModelConfig& base, std::int64_t seq_len, int lowest_source, int num_copies);

/// The same with the copies behind these layers, ascending.
double step_flops_per_token(const model::ModelConfig& base, std::int64_t seq_len, std::span<const int> after);

/// The same for training every parameter: 3 (L f + h).
double full_step_flops_per_token(const model::ModelConfig& config, std::int64_t seq_len);

}  // namespace adept::method
