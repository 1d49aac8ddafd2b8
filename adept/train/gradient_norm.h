// The 2-norm of all gradients together, where ranks have parts of some of them.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "adept/train/trainable.h"

namespace adept::train {

/// Squares are added in the order of one process that has all gradients: on a CPU the bits are the same.
class GradientNorm {
 public:
  /// Of trainable.gradients(), on `size` ranks.
  GradientNorm(const Trainable& trainable, int size) : trainable_(trainable), size_(size) {}

  /// What this rank knows: (count()) fp64 on their device, for all ranks.
  at::Tensor own() const;
  std::size_t count() const;
  /// The square of the norm, from the numbers of every rank, which may be followed by others. Those of rank 0 count
  /// where all have the same gradient.
  double squared(std::span<const std::vector<double>> of_ranks) const;

 private:
  bool goes_by_blocks() const;
  std::size_t count_of(std::size_t i, std::size_t rank) const;

  const Trainable& trainable_;
  int size_;
};

}  // namespace adept::train
