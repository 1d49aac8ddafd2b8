#include "adept/nn/swiglu.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

kernels::Swiglu swiglu_arguments(const at::Tensor& gate, const at::Tensor& up) {
  return {.element = element_of(gate), .gate = gate.const_data_ptr(), .up = up.const_data_ptr()};
}

at::Tensor gated(const at::Tensor& gate, const at::Tensor& up) {
  if (!has_kernel(gate)) return at::silu(gate).mul_(up);
  at::Tensor y = at::empty_like(gate);
  kernels::Swiglu arguments = swiglu_arguments(gate, up);
  arguments.y = y.data_ptr();
  for_each_range("swiglu", gate.numel(), 1, [&](std::int64_t begin, std::int64_t end) {
    kernels::functions().swiglu_forward(arguments, begin, end);
  });
  return y;
}

class Swiglu : public torch::autograd::Function<Swiglu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    context->save_for_backward({gate, up});
    return gated(gate, up);
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("swiglu");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1];
    const bool wants_gate = context->needs_input_grad(0), wants_up = context->needs_input_grad(1);
    at::Tensor dgate, dup;
    if (!has_kernel(gate)) {
      if (wants_gate) dgate = at::silu_backward(outputs[0] * up, gate);
      if (wants_up) dup = at::silu(gate).mul_(outputs[0]);
      return {dgate, dup};
    }
    const at::Tensor dy = outputs[0].contiguous();
    if (wants_gate) dgate = at::empty_like(gate);
    if (wants_up) dup = at::empty_like(up);
    kernels::Swiglu arguments = swiglu_arguments(gate, up);
    arguments.grad_y = dy.const_data_ptr();
    arguments.grad_gate = wants_gate ? dgate.data_ptr() : nullptr;
    arguments.grad_up = wants_up ? dup.data_ptr() : nullptr;
    for_each_range("swiglu_backward", gate.numel(), 1, [&](std::int64_t begin, std::int64_t end) {
      kernels::functions().swiglu_backward(arguments, begin, end);
    });
    return {dgate, dup};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  if (active_kernels() == Kernels::kReference) return reference::swiglu(gate, up);
  ADEPT_CHECK(gate.sizes() == up.sizes(), "the inputs of swiglu differ in shape");
  if (needs_gradient(gate) || needs_gradient(up)) return Swiglu::apply(gate.contiguous(), up.contiguous());
  return gated(gate.contiguous(), up.contiguous());
}

}  // namespace adept::nn
