#include "adept/nn/square_sum.h"

#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "adept/nn/kernels.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

at::Tensor square_sums_by_kernel(const at::Tensor& x) {
  const at::Tensor flat = x.contiguous();
  const std::int64_t num_blocks = kernels::divide_up(flat.numel(), kSquareSumBlock);
  const at::Tensor sums = at::empty({num_blocks}, at::kDouble);
  const kernels::SquareSums arguments = {.element = element_of(flat),
                                         .size = flat.numel(),
                                         .x = flat.const_data_ptr(),
                                         .sums = sums.mutable_data_ptr<double>()};
  for_each_range("square_sum", num_blocks, kSquareSumBlock, [&](std::int64_t begin, std::int64_t end) {
    kernels::functions().square_sums(arguments, begin, end);
  });
  return sums;
}

}  // namespace

const std::int64_t kSquareSumBlock = kernels::SquareSums::kBlock;

at::Tensor square_sum(at::TensorList tensors) {
  if (active_kernels() == Kernels::kReference) return reference::square_sum(tensors);
  if (!tensors.empty() && !std::all_of(tensors.begin(), tensors.end(), has_kernel))
    return at::stack(at::_foreach_norm(tensors, 2, at::kDouble)).square().sum();
  double sum = 0;
  for (const at::Tensor& tensor : tensors) {
    const at::Tensor sums = square_sums_by_kernel(tensor);
    const auto* first = sums.const_data_ptr<double>();
    sum += std::accumulate(first, first + sums.numel(), 0.0);
  }
  return at::scalar_tensor(sum, at::kDouble);
}

at::Tensor square_sums(const at::Tensor& tensor) {
  if (active_kernels() != Kernels::kReference && has_kernel(tensor)) return square_sums_by_kernel(tensor);
  const at::Tensor sums = at::zeros({num_square_sums(tensor.numel())}, tensor.options().dtype(at::kDouble));
  if (tensor.numel() > 0) sums[0].copy_(square_sum({tensor}));
  return sums;
}

std::int64_t num_square_sums(std::int64_t numel) { return kernels::divide_up(numel, kSquareSumBlock); }

}  // namespace adept::nn
