#include "adept/nn/normed_rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/rms_norm.h"

namespace adept::nn {
namespace {

/// work(token) for the heads of every token: they are normalised and rotated while they are in the cache.
template <typename Work>
void for_each_token(const char* name, const at::Tensor& x, const Work& work) {
  for_each_range(name, x.size(0) * x.size(1), x.size(2) * x.size(3), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) work(token);
  });
}

kernels::RmsNorm norm_arguments(const at::Tensor& x, const at::Tensor& weight, GainConvention gain,
                                const at::Tensor& inverse_rms) {
  return {.element = element_of(x),
          .gain = gain,
          .width = x.size(3),
          .x = x.const_data_ptr(),
          .weight = weight.const_data_ptr(),
          .inverse_rms = inverse_rms.data_ptr<float>()};
}

/// From one tensor (B, H, T, E) to another; they may be the same.
kernels::Rope rotation(const at::Tensor& from, const at::Tensor& to, const RopeTables& tables, float sign) {
  return {.element = element_of(from),
          .positions = from.size(2),
          .num_heads = from.size(1),
          .head_dim = from.size(3),
          .rotary_dim = 2 * tables.cos.size(-1),
          .sign = sign,
          .cos = tables.cos.const_data_ptr(),
          .sin = tables.sin.const_data_ptr(),
          .table_stride = tables.row_stride(),
          .x = heads_of(from),
          .y = heads_of(to)};
}

RopeTables contiguous(const RopeTables& tables) { return {tables.cos.contiguous(), tables.sin.contiguous()}; }

class NormedRope : public torch::autograd::Function<NormedRope> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps,
                            const at::Tensor& cos, const at::Tensor& sin, GainConvention gain) {
    const RotatedHeads result = normed_rope_forward(x, weight, eps, {cos, sin}, gain);
    context->save_for_backward({x, weight, result.inverse_rms, cos, sin});
    save_enum(context, "gain", gain);
    return result.value;
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("normed_rope");
    const variable_list saved = context->get_saved_variables();
    const NormedRopeGradients gradients = normed_rope_backward(
        outputs[0], saved[0], saved[1], saved[2], {saved[3], saved[4]}, saved_enum<GainConvention>(context, "gain"),
        context->needs_input_grad(0), context->needs_input_grad(1));
    return {gradients.x, gradients.weight, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

RotatedHeads normed_rope_forward(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTables& tables,
                                 GainConvention gain) {
  ADEPT_CHECK(x.scalar_type() == weight.scalar_type(), "heads of {} with a gain of {}", at::toString(x.scalar_type()),
              at::toString(weight.scalar_type()));
  const std::int64_t heads = x.size(2);
  const RopeTables angles = contiguous(tables);
  const RotatedHeads result = {at::empty_like(x).transpose(1, 2),
                               at::empty({x.numel() / x.size(3)}, x.options().dtype(at::kFloat))};
  kernels::RmsNorm norm = norm_arguments(x, weight, gain, result.inverse_rms);
  norm.eps = static_cast<float>(eps);
  norm.y = result.value.data_ptr();
  const kernels::Rope rope = rotation(result.value, result.value, angles, 1);
  for_each_token("normed_rope", x, [&](std::int64_t token) {
    kernels::functions().rms_norm_forward(norm, token * heads, (token + 1) * heads);
    kernels::functions().rope(rope, token, token + 1);
  });
  return result;
}

NormedRopeGradients normed_rope_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                         const at::Tensor& inverse_rms, const RopeTables& tables, GainConvention gain,
                                         bool wants_x, bool wants_weight) {
  const std::int64_t heads = x.size(2), head_dim = x.size(3);
  const RopeTables angles = contiguous(tables);
  const at::Tensor grad_rows = with_contiguous_rows(grad);
  const at::Tensor turned_back = at::empty_like(x);  // first the gradient of the norms, then that of x
  at::Tensor of_threads;                             // each sums its own heads
  if (wants_weight) of_threads = at::zeros({at::get_num_threads(), head_dim}, x.options().dtype(at::kFloat));
  kernels::RmsNorm norm = norm_arguments(x, weight, gain, inverse_rms);
  norm.grad_y = turned_back.const_data_ptr();
  norm.grad_x = wants_x ? turned_back.data_ptr() : nullptr;
  const kernels::Rope rope = rotation(grad_rows, turned_back.transpose(1, 2), angles, -1);
  float* sums = wants_weight ? of_threads.data_ptr<float>() : nullptr;
  for_each_token("normed_rope_backward", x, [&](std::int64_t token) {
    kernels::functions().rope(rope, token, token + 1);
    kernels::functions().rms_norm_backward(norm, token * heads, (token + 1) * heads,
                                           wants_weight ? sums + at::get_thread_num() * head_dim : nullptr);
  });
  NormedRopeGradients gradients;
  if (wants_x) gradients.x = turned_back;
  if (wants_weight) gradients.weight = of_threads.sum(0).to(weight.scalar_type());
  return gradients;
}

at::Tensor normed_rope(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTables& tables,
                       GainConvention gain) {
  if (active_kernels() == Kernels::kReference || !has_kernel(x))
    return apply_rope(rms_norm(x, weight, eps, gain).transpose(1, 2), tables);
  const at::Tensor rows = x.contiguous();
  if (needs_gradient(x) || needs_gradient(weight))
    return NormedRope::apply(rows, weight, eps, tables.cos, tables.sin, gain);
  return normed_rope_forward(rows, weight, eps, tables, gain).value;
}

}  // namespace adept::nn
