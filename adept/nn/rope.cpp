#include "adept/nn/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/where.h>

#include <numbers>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

/// Long wavelengths are divided by the factor, short ones kept, those between interpolated (Llama 3.1).
at::Tensor llama3_frequencies(const at::Tensor& frequencies, const RopeParameters& p) {
  const double length = p.original_max_position_embeddings;
  const at::Tensor wavelength = 2 * std::numbers::pi / frequencies;
  const at::Tensor is_long = wavelength > length / p.low_freq_factor;
  const at::Tensor is_short = wavelength < length / p.high_freq_factor;
  const at::Tensor smooth = (length / wavelength - p.low_freq_factor) / (p.high_freq_factor - p.low_freq_factor);
  const at::Tensor between = (1 - smooth) * frequencies / p.factor + smooth * frequencies;
  return at::where(is_long, frequencies / p.factor, at::where(is_short, frequencies, between));
}

/// One pass over each half; `sign` -1 rotates backwards.
at::Tensor rotate_by_aten(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, double sign) {
  const std::int64_t half = x.size(-1) / 2;
  const at::Tensor x1 = x.narrow(-1, 0, half), x2 = x.narrow(-1, half, half);
  at::Tensor result = at::empty_like(x);
  at::Tensor y1 = result.narrow(-1, 0, half), y2 = result.narrow(-1, half, half);
  at::mul_out(y1, x1, cos).addcmul_(x2, sin, -sign);
  at::mul_out(y2, x2, cos).addcmul_(x1, sin, sign);
  return result;
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, double sign) {
  if (!has_kernel(x)) return rotate_by_aten(x, cos, sin, sign);
  const at::Tensor rows = with_contiguous_rows(x), c = cos.contiguous(), s = sin.contiguous();
  at::Tensor result = at::empty_like(rows);  // in the same order in memory
  const kernels::Rope arguments = {.element = element_of(x),
                                   .positions = x.size(2),
                                   .num_heads = x.size(1),
                                   .head_dim = x.size(3),
                                   .sign = static_cast<float>(sign),
                                   .cos = c.const_data_ptr(),
                                   .sin = s.const_data_ptr(),
                                   .x = heads_of(rows),
                                   .y = heads_of(result)};
  for_each_range("rope", x.size(0) * x.size(2), x.size(1) * x.size(3),
                 [&](std::int64_t begin, std::int64_t end) { kernels::functions().rope(arguments, begin, end); });
  return result;
}

class ApplyRope : public torch::autograd::Function<ApplyRope> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return rotate(x, cos, sin, 1);
  }

  // A rotation's transpose is the rotation back.
  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("apply_rope");
    const variable_list saved = context->get_saved_variables();
    return {rotate(outputs[0], saved[0], saved[1], -1), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rope_frequencies(const RopeParameters& parameters, std::int64_t head_dim) {
  ADEPT_CHECK(head_dim > 0 && head_dim % 2 == 0, "head_dim {} is not even", head_dim);
  const at::Tensor exponents = at::arange(0, head_dim, 2, at::kFloat) / static_cast<double>(head_dim);
  const at::Tensor frequencies = at::reciprocal(at::pow(parameters.theta, exponents));
  switch (parameters.type) {
    case RopeType::kDefault:
      return frequencies;
    case RopeType::kLinear:
      return frequencies / parameters.factor;
    case RopeType::kLlama3:
      return llama3_frequencies(frequencies, parameters);
  }
  throw InternalError("unknown rope type");
}

RopeTables rope_tables(const RopeParameters& parameters, std::int64_t head_dim, std::int64_t length,
                       at::ScalarType dtype, at::Device device) {
  const at::Tensor positions = at::arange(0, length, at::kFloat);
  const at::Tensor angles = at::outer(positions, rope_frequencies(parameters, head_dim));
  return {angles.cos().to(device, dtype), angles.sin().to(device, dtype)};
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables) {
  if (active_kernels() == Kernels::kReference) return reference::apply_rope(x, tables);
  if (needs_gradient(x)) return ApplyRope::apply(x, tables.cos, tables.sin);
  return rotate(x, tables.cos, tables.sin, 1);
}

}  // namespace adept::nn
