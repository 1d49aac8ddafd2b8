#include "adept/nn/rms_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>

#include "adept/nn/autograd.h"

namespace adept::nn {
namespace {

/// 1 / sqrt(mean(x^2) + eps) of each row: (..., 1).
at::Tensor inverse_rms(const at::Tensor& wide, double eps) {
  const auto width = static_cast<double>(wide.size(-1));
  return at::linalg_vector_norm(wide, 2, {-1}, /*keepdim=*/true).square_().div_(width).add_(eps).rsqrt_();
}

at::Tensor forward_pass(const at::Tensor& x, const at::Tensor& wide, const at::Tensor& inverse,
                        const at::Tensor& weight) {
  at::Tensor normalised = wide * inverse;
  if (normalised.scalar_type() == x.scalar_type() && weight.scalar_type() == x.scalar_type()) {
    return normalised.mul_(weight);
  }
  return normalised.to(x.scalar_type()).mul_(weight.to(x.scalar_type()));
}

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const at::Tensor wide = x.to(accumulate_type(x));
    const at::Tensor inverse = inverse_rms(wide, eps);
    context->save_for_backward({x, weight, inverse});
    return forward_pass(x, wide, inverse, weight);
  }

  // With n = x r, r = 1 / rms(x) and g = dy weight: dx = r (g - n mean(g n)), dweight = sum over rows of dy n.
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("rms_norm");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const at::ScalarType wide = accumulate_type(x);
    const at::Tensor dy = outputs[0].to(wide);
    const at::Tensor normalised = x.to(wide) * inverse;
    at::Tensor dx, dweight;
    if (context->needs_input_grad(1)) {
      dweight = (dy * normalised).reshape({-1, x.size(-1)}).sum(0).to(weight.scalar_type());
    }
    if (context->needs_input_grad(0)) {
      dx = dy * weight.to(wide);
      const at::Tensor mean = (dx * normalised).mean(-1, /*keepdim=*/true);
      dx = dx.addcmul_(normalised, mean, -1).mul_(inverse).to(x.scalar_type());
    }
    return {dx, dweight, at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (needs_gradient(x) || needs_gradient(weight)) return RmsNorm::apply(x, weight, eps);
  const at::Tensor wide = x.to(accumulate_type(x));
  return forward_pass(x, wide, inverse_rms(wide, eps), weight);
}

}  // namespace adept::nn
