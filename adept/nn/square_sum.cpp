#include "adept/nn/square_sum.h"

#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "adept/nn/kernels.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

double square_sum_by_kernel(const at::Tensor& x) {
  const at::Tensor flat = x.contiguous();
  const std::int64_t num_blocks = kernels::divide_up(flat.numel(), kernels::SquareSums::kBlock);
  std::vector<double> sums(static_cast<std::size_t>(num_blocks));
  const kernels::SquareSums arguments = {
      .element = element_of(flat), .size = flat.numel(), .x = flat.const_data_ptr(), .sums = sums.data()};
  for_each_range("square_sum", num_blocks, kernels::SquareSums::kBlock, [&](std::int64_t begin, std::int64_t end) {
    kernels::functions().square_sums(arguments, begin, end);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

at::Tensor square_sum(at::TensorList tensors) {
  if (active_kernels() == Kernels::kReference) return reference::square_sum(tensors);
  if (!tensors.empty() && !std::all_of(tensors.begin(), tensors.end(), has_kernel))
    return at::stack(at::_foreach_norm(tensors, 2, at::kDouble)).square().sum();
  double sum = 0;
  for (const at::Tensor& tensor : tensors) sum += square_sum_by_kernel(tensor);
  return at::scalar_tensor(sum, at::kDouble);
}

}  // namespace adept::nn
