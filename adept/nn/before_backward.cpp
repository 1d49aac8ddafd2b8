#include "adept/nn/before_backward.h"

#include <ATen/core/custom_class.h>
#include <ATen/core/ivalue.h>

#include <algorithm>
#include <utility>

#include "adept/nn/autograd.h"

namespace adept::nn {
namespace {

struct Call : torch::CustomClassHolder {
  std::function<void()> function;
};

class BeforeBackward : public torch::autograd::Function<BeforeBackward> {
 public:
  static variable_list forward(AutogradContext* context, at::TensorList tensors, const c10::intrusive_ptr<Call>& call) {
    context->set_materialize_grads(false);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    variable_list results;
    for (const at::Tensor& tensor : tensors) results.push_back(tensor.view_as(tensor));
    return results;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    static_cast<const Call&>(*context->saved_data["call"].toCapsule()).function();
    gradients.emplace_back();  // of the call
    return gradients;
  }
};

}  // namespace

std::vector<at::Tensor> before_backward(const std::vector<at::Tensor>& tensors, std::function<void()> function) {
  if (std::none_of(tensors.begin(), tensors.end(), needs_gradient)) return tensors;
  auto call = c10::make_intrusive<Call>();
  call->function = std::move(function);
  return BeforeBackward::apply(at::TensorList(tensors), call);
}

}  // namespace adept::nn
