#include "adept/train/gradient_norm.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "adept/nn/square_sum.h"
#include "adept/optim/adamw.h"

namespace adept::train {

at::Tensor GradientNorm::own() const {
  const std::vector<at::Tensor>& gradients = trainable_.gradients();
  if (!trainable_.any_divided()) return optim::squared_grad_norm(gradients).view({1});
  std::vector<at::Tensor> numbers;
  for (std::size_t i = 0; i < gradients.size(); ++i)
    numbers.push_back(trainable_.is_divided(i) && goes_by_blocks() ? nn::square_sums(gradients[i])
                                                                   : nn::square_sum({gradients[i]}).view({1}));
  const at::Tensor all = at::cat(numbers);
  return at::cat({all, at::zeros({static_cast<std::int64_t>(count()) - all.numel()}, all.options())});
}

std::size_t GradientNorm::count() const {
  if (!trainable_.any_divided()) return 1;
  std::size_t most = 0;
  for (std::size_t rank = 0; rank < static_cast<std::size_t>(size_); ++rank) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < trainable_.parameters().size(); ++i) count += count_of(i, rank);
    most = std::max(most, count);
  }
  return most;
}

bool GradientNorm::goes_by_blocks() const { return trainable_.leaves().front().device().is_cpu(); }

std::size_t GradientNorm::count_of(std::size_t i, std::size_t rank) const {
  if (!trainable_.is_divided(i) || !goes_by_blocks()) return 1;
  const std::vector<std::int64_t>& bounds = trainable_.parameters()[i].shard->bounds;
  return static_cast<std::size_t>(nn::num_square_sums(bounds[rank + 1] - bounds[rank]));
}

double GradientNorm::squared(std::span<const std::vector<double>> of_ranks) const {
  if (!trainable_.any_divided()) return of_ranks.front().front();
  std::vector<std::size_t> next(of_ranks.size());
  double total = 0;
  for (std::size_t i = 0; i < trainable_.parameters().size(); ++i) {
    double sum = 0;
    for (std::size_t rank = 0; rank < of_ranks.size(); ++rank) {
      const auto numbers = std::span(of_ranks[rank]).subspan(next[rank], count_of(i, rank));
      next[rank] += numbers.size();
      if (trainable_.is_divided(i) || rank == 0) sum = std::accumulate(numbers.begin(), numbers.end(), sum);
    }
    total += sum;
  }
  return total;
}

}  // namespace adept::train
