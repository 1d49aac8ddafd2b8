// The floating point operations that a training step cannot do without.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "adept/model/decoder.h"

namespace adept::train {

/// Per token of a sequence: the products with weights and of attention, forward and backward.
struct StepCost {
  double prefix_flops = 0;  ///< embed to the lowest trained layer, which an activation cache may have
  double flops = 0;         ///< everything else
};

/// Of the tensors that require a gradient, for sequences of `seq_len` tokens: a frozen matrix has no weight gradient,
/// and no gradient is computed below the lowest trained tensor.
StepCost step_cost(const model::Decoder& decoder, std::int64_t lowest_layer, std::int64_t seq_len);

/// What results and speed depend on beside the code: processor or GPU, threads, instruction set, type, torch.
std::string describe_compute(at::ScalarType dtype, at::Device device);

}  // namespace adept::train
