#include "adept/nn/swiglu.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "adept/nn/autograd.h"

namespace adept::nn {
namespace {

class Swiglu : public torch::autograd::Function<Swiglu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    context->save_for_backward({gate, up});
    return at::silu(gate).mul_(up);
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("swiglu");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1], &dy = outputs[0];
    at::Tensor dgate, dup;
    if (context->needs_input_grad(0)) dgate = at::silu_backward(dy * up, gate);
    if (context->needs_input_grad(1)) dup = at::silu(gate).mul_(dy);
    return {dgate, dup};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  if (needs_gradient(gate) || needs_gradient(up)) return Swiglu::apply(gate, up);
  return at::silu(gate).mul_(up);
}

}  // namespace adept::nn
