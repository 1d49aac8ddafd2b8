// The sum of the squares of tensors.
#pragma once

#include <ATen/core/Tensor.h>

namespace adept::nn {

/// Of all elements of all tensors, which are floating, accumulated in fp64: () fp64 on their device. On a CPU in fp32
/// and bf16 the bits are the same on any number of threads.
at::Tensor square_sum(at::TensorList tensors);

}  // namespace adept::nn
