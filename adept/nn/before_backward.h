// A call in the backward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace adept::nn {

/// `tensors`, with the same values. Before the backward pass of what made them, it calls `function`, once: all that
/// comes from them has been passed through by then. Without a graph it returns the tensors.
std::vector<at::Tensor> before_backward(const std::vector<at::Tensor>& tensors, std::function<void()> function);

}  // namespace adept::nn
