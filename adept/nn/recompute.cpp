#include "adept/nn/recompute.h"

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/custom_class.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>

#include <mutex>
#include <utility>

#include "adept/nn/autograd.h"

namespace adept::nn {
namespace {

struct Recomputation : torch::CustomClassHolder {
  TensorFunction function;
  at::Tensor generator_state;  // before the first computation
};

at::Tensor generator_state(at::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void set_generator_state(at::Device device, const at::Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const c10::intrusive_ptr<Recomputation>& recomputation) {
    recomputation->generator_state = generator_state(x.device());
    context->save_for_backward({x});
    context->saved_data["recomputation"] = c10::IValue::make_capsule(recomputation);
    // The function is to see the same grad mode as in the backward pass: dropout goes by it. What it builds is dropped.
    const at::AutoGradMode with_grad(true);
    variable_list ys = recomputation->function(x.detach());
    for (at::Tensor& y : ys) y = y.detach();
    return ys;
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("recomputed");
    const auto capsule = context->saved_data["recomputation"].toCapsule();
    const auto& recomputation = static_cast<const Recomputation&>(*capsule);
    const at::Tensor x = context->get_saved_variables()[0].detach().set_requires_grad(true);
    const at::Tensor state_now = generator_state(x.device());
    set_generator_state(x.device(), recomputation.generator_state);
    variable_list ys;
    {
      const at::AutoGradMode with_grad(true);
      ys = recomputation.function(x);
    }
    set_generator_state(x.device(), state_now);
    torch::autograd::backward(ys, outputs);
    return {x.grad(), at::Tensor()};
  }
};

}  // namespace

std::vector<at::Tensor> recomputed(const at::Tensor& x, TensorFunction function) {
  // Autograd asks the inputs alone whether the result takes part in a graph, and sees none of the function's leaves.
  if (!needs_gradient(x)) return function(x);
  auto recomputation = c10::make_intrusive<Recomputation>();
  recomputation->function = std::move(function);
  return Recomputed::apply(x, recomputation);
}

}  // namespace adept::nn
