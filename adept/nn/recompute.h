// Activation checkpointing (Chen et al., arXiv 1604.06174): time for memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace adept::nn {

using TensorFunction = std::function<std::vector<at::Tensor>(const at::Tensor&)>;

/// function(x), of whose graph only x is kept: the backward pass computes the rest again. Values, gradients (those of
/// leaves inside `function` too) and draws from ATen's generator are the same bit for bit.
///
/// A result may be x itself or a part of it; each must depend on x. Where x takes no part in a graph this is
/// function(x) itself, whose own graph is kept.
std::vector<at::Tensor> recomputed(const at::Tensor& x, TensorFunction function);

}  // namespace adept::nn
