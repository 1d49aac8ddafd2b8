#include "adept/nn/gate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

at::Tensor activated_by_aten(const at::Tensor& x, Activation activation) {
  return activation == Activation::kSilu ? at::silu(x) : at::gelu(x, "tanh");
}

at::Tensor activation_gradient_by_aten(const at::Tensor& grad, const at::Tensor& x, Activation activation) {
  return activation == Activation::kSilu ? at::silu_backward(grad, x) : at::gelu_backward(grad, x, "tanh");
}

kernels::Gate gate_arguments(const at::Tensor& gate, const at::Tensor& up, Activation activation) {
  return {
      .element = element_of(gate), .activation = activation, .gate = gate.const_data_ptr(), .up = up.const_data_ptr()};
}

at::Tensor gate_by(const at::Tensor& gate, const at::Tensor& up, Activation activation) {
  if (!has_kernel(gate)) return activated_by_aten(gate, activation).mul_(up);
  at::Tensor y = at::empty_like(gate);
  kernels::Gate arguments = gate_arguments(gate, up, activation);
  arguments.y = y.data_ptr();
  for_each_range("gated", gate.numel(), 1, [&](std::int64_t begin, std::int64_t end) {
    kernels::functions().gate_forward(arguments, begin, end);
  });
  return y;
}

class Gated : public torch::autograd::Function<Gated> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up,
                            Activation activation) {
    context->save_for_backward({gate, up});
    save_enum(context, "activation", activation);
    return gate_by(gate, up, activation);
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("gated");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1];
    const auto activation = saved_enum<Activation>(context, "activation");
    const bool wants_gate = context->needs_input_grad(0), wants_up = context->needs_input_grad(1);
    at::Tensor dgate, dup;
    if (!has_kernel(gate)) {
      if (wants_gate) dgate = activation_gradient_by_aten(outputs[0] * up, gate, activation);
      if (wants_up) dup = activated_by_aten(gate, activation).mul_(outputs[0]);
      return {dgate, dup, at::Tensor()};
    }
    const at::Tensor dy = outputs[0].contiguous();
    if (wants_gate) dgate = at::empty_like(gate);
    if (wants_up) dup = at::empty_like(up);
    kernels::Gate arguments = gate_arguments(gate, up, activation);
    arguments.grad_y = dy.const_data_ptr();
    arguments.grad_gate = wants_gate ? dgate.data_ptr() : nullptr;
    arguments.grad_up = wants_up ? dup.data_ptr() : nullptr;
    for_each_range("gated_backward", gate.numel(), 1, [&](std::int64_t begin, std::int64_t end) {
      kernels::functions().gate_backward(arguments, begin, end);
    });
    return {dgate, dup, at::Tensor()};
  }
};

}  // namespace

at::Tensor gated(const at::Tensor& gate, const at::Tensor& up, Activation activation) {
  if (active_kernels() == Kernels::kReference) return reference::gated(gate, up, activation);
  ADEPT_CHECK(gate.sizes() == up.sizes(), "the inputs of a gate differ in shape");
  if (needs_gradient(gate) || needs_gradient(up)) return Gated::apply(gate.contiguous(), up.contiguous(), activation);
  return gate_by(gate.contiguous(), up.contiguous(), activation);
}

}  // namespace adept::nn
