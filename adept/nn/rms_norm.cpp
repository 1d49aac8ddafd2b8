#include "adept/nn/rms_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_rms_norm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

void check_types(const at::Tensor& x, const at::Tensor& weight) {
  ADEPT_CHECK(x.scalar_type() == weight.scalar_type(), "rms_norm of {} by {}", at::toString(x.scalar_type()),
              at::toString(weight.scalar_type()));
}

/// Results of the backward pass that are not wanted stay undefined.
struct NormGradients {
  at::Tensor x, weight;
};

// By ATen.

/// 1 / sqrt(mean(x^2) + eps) of each row: (..., 1).
at::Tensor inverse_rms(const at::Tensor& wide, double eps) {
  const auto width = static_cast<double>(wide.size(-1));
  return at::linalg_vector_norm(wide, 2, {-1}, /*keepdim=*/true).square_().div_(width).add_(eps).rsqrt_();
}

/// What a row is multiplied by, in the type in which that is done.
at::Tensor multiplier(const at::Tensor& weight, at::ScalarType wide, GainConvention gain) {
  if (gain == GainConvention::kRounded) return weight;
  return gain == GainConvention::kOnePlus ? weight.to(wide) + 1 : weight.to(wide);
}

at::Tensor scaled(const at::Tensor& x, const at::Tensor& wide, const at::Tensor& inverse, const at::Tensor& weight,
                  GainConvention gain) {
  const at::Tensor normalised = wide * inverse, factor = multiplier(weight, wide.scalar_type(), gain);
  return normalised.to(factor.scalar_type()).mul_(factor).to(x.scalar_type());
}

/// With n = x r, r = 1 / rms(x) and g = dy gain: dx = r (g - n mean(g n)), dweight = sum over rows of dy n.
NormGradients differentiate(const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& inverse, GainConvention gain, bool wants_x, bool wants_weight) {
  const at::ScalarType wide = accumulate_type(x);
  const at::Tensor dy = grad_y.to(wide);
  const at::Tensor normalised = x.to(wide) * inverse;
  NormGradients gradients;
  if (wants_weight) gradients.weight = (dy * normalised).reshape({-1, x.size(-1)}).sum(0).to(weight.scalar_type());
  if (!wants_x) return gradients;
  gradients.x = dy * multiplier(weight, wide, gain).to(wide);
  const at::Tensor mean = (gradients.x * normalised).mean(-1, /*keepdim=*/true);
  gradients.x = gradients.x.addcmul_(normalised, mean, -1).mul_(inverse).to(x.scalar_type());
  return gradients;
}

/// ATen's fused norm is for devices; it takes a weight of x's type.
bool has_fused_norm(const at::Tensor& x, GainConvention gain) {
  return !x.is_cpu() && (gain != GainConvention::kOnePlus || x.scalar_type() == at::kFloat);
}

at::Tensor fused_norm(const at::Tensor& x, const at::Tensor& weight, double eps, GainConvention gain) {
  return std::get<0>(
      at::_fused_rms_norm(x, x.sizes().slice(x.dim() - 1), multiplier(weight, x.scalar_type(), gain), eps));
}

// By the kernels.

std::int64_t num_rows(const at::Tensor& x) { return x.numel() / std::max<std::int64_t>(1, x.size(-1)); }

/// work(begin, end) over all rows, so few at a time that what one kernel writes is still in the cache for the next.
template <typename Work>
void for_each_rows(const char* name, const at::Tensor& x, const Work& work) {
  const std::int64_t width = std::max<std::int64_t>(1, x.size(-1)), step = std::max<std::int64_t>(1, 4096 / width);
  for_each_range(name, num_rows(x), width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; row += step) work(row, std::min(row + step, end));
  });
}

kernels::RmsNorm norm_arguments(const at::Tensor& x, const at::Tensor& weight, GainConvention gain) {
  return {.element = element_of(x),
          .gain = gain,
          .width = x.size(-1),
          .x = x.const_data_ptr(),
          .weight = weight.const_data_ptr()};
}

kernels::Addition addition(const at::Tensor& x, const at::Tensor& y, const at::Tensor& sum) {
  return {.element = element_of(x), .x = x.const_data_ptr(), .y = y.const_data_ptr(), .sum = sum.data_ptr()};
}

void add_rows(const kernels::Addition& addition, std::int64_t width, std::int64_t begin, std::int64_t end) {
  kernels::functions().add(addition, begin * width, end * width);
}

at::Tensor forward_kernel(const at::Tensor& x, const at::Tensor& weight, double eps, GainConvention gain,
                          float* inverse) {
  at::Tensor y = at::empty_like(x);
  kernels::RmsNorm arguments = norm_arguments(x, weight, gain);
  arguments.eps = static_cast<float>(eps);
  arguments.y = y.data_ptr();
  arguments.inverse_rms = inverse;
  for_each_range("rms_norm", num_rows(x), x.size(-1), [&](std::int64_t begin, std::int64_t end) {
    kernels::functions().rms_norm_forward(arguments, begin, end);
  });
  return y;
}

NormedSum sum_kernel(const at::Tensor& x, const at::Tensor& y, const at::Tensor& weight, double eps,
                     GainConvention gain, float* inverse) {
  NormedSum result = {at::empty_like(x), at::empty_like(x)};
  const kernels::Addition adding = addition(x, y, result.sum);
  kernels::RmsNorm norm = norm_arguments(result.sum, weight, gain);
  norm.eps = static_cast<float>(eps);
  norm.y = result.normed.data_ptr();
  norm.inverse_rms = inverse;
  for_each_rows("add_rms_norm", x, [&](std::int64_t begin, std::int64_t end) {
    add_rows(adding, norm.width, begin, end);
    kernels::functions().rms_norm_forward(norm, begin, end);
  });
  return result;
}

/// `grad_sum`, where it is defined, is added to the gradient of x.
NormGradients backward_kernel(const at::Tensor& grad_y, const at::Tensor& grad_sum, const at::Tensor& x,
                              const at::Tensor& weight, const at::Tensor& inverse, GainConvention gain, bool wants_x,
                              bool wants_weight) {
  const std::int64_t width = x.size(-1);
  NormGradients gradients;
  if (wants_x) gradients.x = at::empty_like(x);
  at::Tensor of_threads;  // each sums its own rows
  if (wants_weight) of_threads = at::zeros({at::get_num_threads(), width}, x.options().dtype(at::kFloat));
  kernels::RmsNorm norm = norm_arguments(x, weight, gain);
  norm.inverse_rms = inverse.data_ptr<float>();
  norm.grad_y = grad_y.const_data_ptr();
  norm.grad_x = wants_x ? gradients.x.data_ptr() : nullptr;
  const bool adds = wants_x && grad_sum.defined();
  const kernels::Addition adding = adds ? addition(gradients.x, grad_sum, gradients.x) : kernels::Addition{};
  float* sums = wants_weight ? of_threads.data_ptr<float>() : nullptr;
  for_each_rows("rms_norm_backward", x, [&](std::int64_t begin, std::int64_t end) {
    kernels::functions().rms_norm_backward(norm, begin, end,
                                           wants_weight ? sums + at::get_thread_num() * width : nullptr);
    if (adds) add_rows(adding, width, begin, end);
  });
  if (wants_weight) gradients.weight = of_threads.sum(0).to(weight.scalar_type());
  return gradients;
}

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps,
                            GainConvention gain) {
    save_enum(context, "gain", gain);
    if (has_kernel(x)) {
      const at::Tensor inverse = at::empty({num_rows(x)}, x.options().dtype(at::kFloat));
      context->save_for_backward({x, weight, inverse});
      return forward_kernel(x, weight, eps, gain, inverse.data_ptr<float>());
    }
    const at::Tensor wide = x.to(accumulate_type(x));
    const at::Tensor inverse = inverse_rms(wide, eps);
    context->save_for_backward({x, weight, inverse});
    return scaled(x, wide, inverse, weight, gain);
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("rms_norm");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const bool wants_x = context->needs_input_grad(0), wants_weight = context->needs_input_grad(1);
    const GainConvention gain = saved_enum<GainConvention>(context, "gain");
    const NormGradients gradients =
        has_kernel(x) ? backward_kernel(outputs[0].contiguous(), {}, x, weight, inverse, gain, wants_x, wants_weight)
                      : differentiate(outputs[0], x, weight, inverse, gain, wants_x, wants_weight);
    return {gradients.x, gradients.weight, at::Tensor(), at::Tensor()};
  }
};

class AddRmsNorm : public torch::autograd::Function<AddRmsNorm> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& y,
                               const at::Tensor& weight, double eps, GainConvention gain) {
    const at::Tensor inverse = at::empty({num_rows(x)}, x.options().dtype(at::kFloat));
    NormedSum result = sum_kernel(x, y, weight, eps, gain, inverse.data_ptr<float>());
    context->save_for_backward({result.sum, weight, inverse});
    save_enum(context, "gain", gain);
    return {result.sum, result.normed};
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("add_rms_norm");
    const variable_list saved = context->get_saved_variables();
    const bool wants_sum = context->needs_input_grad(0) || context->needs_input_grad(1);
    const NormGradients gradients =
        backward_kernel(outputs[1].contiguous(), outputs[0].contiguous(), saved[0], saved[1], saved[2],
                        saved_enum<GainConvention>(context, "gain"), wants_sum, context->needs_input_grad(2));
    return {gradients.x, gradients.x, gradients.weight, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, GainConvention gain) {
  if (active_kernels() == Kernels::kReference) return reference::rms_norm(x, weight, eps, gain);
  check_types(x, weight);
  if (has_fused_norm(x, gain)) return fused_norm(x, weight, eps, gain);
  const at::Tensor rows = x.contiguous();
  if (needs_gradient(x) || needs_gradient(weight)) return RmsNorm::apply(rows, weight, eps, gain);
  if (has_kernel(x)) return forward_kernel(rows, weight, eps, gain, nullptr);
  const at::Tensor wide = x.to(accumulate_type(x));
  return scaled(x, wide, inverse_rms(wide, eps), weight, gain);
}

NormedSum add_rms_norm(const at::Tensor& x, const at::Tensor& y, const at::Tensor& weight, double eps,
                       GainConvention gain) {
  ADEPT_CHECK(x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type(), "a sum of {} and {} numbers", x.numel(),
              y.numel());
  if (active_kernels() == Kernels::kReference || !has_kernel(x)) {
    const at::Tensor sum = x + y;
    return {sum, rms_norm(sum, weight, eps, gain)};
  }
  check_types(x, weight);
  const at::Tensor a = x.contiguous(), b = y.contiguous();
  if (!needs_gradient(x) && !needs_gradient(y) && !needs_gradient(weight))
    return sum_kernel(a, b, weight, eps, gain, nullptr);
  const variable_list result = AddRmsNorm::apply(a, b, weight, eps, gain);
  return {result[0], result[1]};
}

}  // namespace adept::nn
