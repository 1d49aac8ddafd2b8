// The sum of the squares of tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace adept::nn {

/// Of all elements of all tensors, which are floating, accumulated in fp64: () fp64 on their device. On a CPU in fp32
/// and bf16 the bits are the same on any number of threads.
at::Tensor square_sum(at::TensorList tensors);

/// Of each block of kSquareSumBlock elements of a tensor, as they follow one another: (num_square_sums) fp64, whose sum
/// in this order is square_sum. Where it does not go by blocks, as on a GPU, the first number is the sum of all.
at::Tensor square_sums(const at::Tensor& tensor);
std::int64_t num_square_sums(std::int64_t numel);
extern const std::int64_t kSquareSumBlock;

}  // namespace adept::nn
