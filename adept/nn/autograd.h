// What the hand-written gradients of this folder share.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>

#include "adept/core/error.h"

namespace adept::nn {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// True if a graph is being recorded and `tensor` takes part in it.
inline bool needs_gradient(const at::Tensor& tensor) { return at::GradMode::is_enabled() && tensor.requires_grad(); }

/// Gradients here are computed without a graph of their own, so a second derivative would be silently wrong.
inline void check_differentiated_once(const char* operation) {
  ADEPT_CHECK(!at::GradMode::is_enabled(), "{} has no second derivative", operation);
}

/// Keeps an enumerator for the backward pass, and gives it back there.
template <typename Enum>
void save_enum(AutogradContext* context, const char* name, Enum value) {
  context->saved_data[name] = static_cast<std::int64_t>(value);
}
template <typename Enum>
Enum saved_enum(AutogradContext* context, const char* name) {
  return static_cast<Enum>(context->saved_data.at(name).toInt());
}

/// The type to accumulate in: fp64 for fp64, fp32 for everything else.
inline at::ScalarType accumulate_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace adept::nn
