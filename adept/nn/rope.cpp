#include "adept/nn/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <numbers>
#include <utility>

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

/// Whether the frequencies are those of long texts.
bool is_long_text(const RopeParameters& p, std::int64_t length) {
  return p.type == RopeType::kLongRope && static_cast<double>(length) > p.original_max_position_embeddings;
}

at::Tensor longrope_frequencies(const at::Tensor& wavelengths, const RopeParameters& p, std::int64_t length) {
  const std::vector<double>& factor = is_long_text(p, length) ? p.long_factor : p.short_factor;
  ADEPT_CHECK(static_cast<std::int64_t>(factor.size()) == wavelengths.numel(), "{} factors of {} frequencies",
              factor.size(), wavelengths.numel());
  return at::reciprocal(at::tensor(factor, at::kFloat) * wavelengths);
}

/// One pass over each half; `sign` -1 rotates backwards.
at::Tensor rotate_by_aten(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, double sign) {
  const std::int64_t half = cos.size(-1), unturned = x.size(-1) - 2 * half;
  const at::Tensor x1 = x.narrow(-1, 0, half), x2 = x.narrow(-1, half, half);
  at::Tensor result = at::empty_like(x);
  if (unturned > 0) result.narrow(-1, 2 * half, unturned).copy_(x.narrow(-1, 2 * half, unturned));
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
                                   .rotary_dim = 2 * cos.size(1),
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

std::int64_t RopeParameters::rotary_dim(std::int64_t head_dim) const {
  return static_cast<std::int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
}

at::Tensor rope_frequencies(const RopeParameters& parameters, std::int64_t head_dim, std::int64_t length) {
  const std::int64_t rotary_dim = parameters.rotary_dim(head_dim);
  ADEPT_CHECK(rotary_dim > 0 && rotary_dim % 2 == 0 && rotary_dim <= head_dim, "{} of {} dimensions cannot rotate",
              rotary_dim, head_dim);
  const at::Tensor exponents = at::arange(0, rotary_dim, 2, at::kFloat) / static_cast<double>(rotary_dim);
  const at::Tensor wavelengths = at::pow(parameters.theta, exponents);  // in tokens per radian
  const at::Tensor frequencies = at::reciprocal(wavelengths);
  switch (parameters.type) {
    case RopeType::kDefault:
      return frequencies;
    case RopeType::kLinear:
      return frequencies / parameters.factor;
    case RopeType::kLlama3:
      return llama3_frequencies(frequencies, parameters);
    case RopeType::kLongRope:
      return longrope_frequencies(wavelengths, parameters, length);
  }
  throw InternalError("unknown rope type");
}

RopeTables rope_tables(const RopeParameters& parameters, std::int64_t head_dim, std::int64_t length,
                       at::ScalarType dtype, at::Device device) {
  const at::Tensor positions = at::arange(0, length, at::kFloat);
  const at::Tensor angles = at::outer(positions, rope_frequencies(parameters, head_dim, length));
  const double factor = parameters.attention_factor;
  return {angles.cos().mul_(factor).to(device, dtype), angles.sin().mul_(factor).to(device, dtype)};
}

RopeCache::RopeCache(RopeParameters parameters, std::int64_t head_dim)
    : parameters_(std::move(parameters)), head_dim_(head_dim) {}

RopeTables RopeCache::get(std::int64_t begin, std::int64_t end, at::ScalarType dtype, at::Device device) {
  const std::lock_guard lock(mutex_);
  RopeTables& tables = is_long_text(parameters_, end) ? long_ : short_;
  const bool fits = tables.cos.defined() && tables.cos.scalar_type() == dtype && tables.cos.device() == device;
  const std::int64_t known = fits ? tables.cos.size(0) : 0;
  if (known < end) {
    const at::NoGradGuard no_grad;
    const std::int64_t ahead = std::max(end, 2 * known);  // unless the frequencies are other ones there
    const bool is_same = is_long_text(parameters_, ahead) == is_long_text(parameters_, end);
    tables = rope_tables(parameters_, head_dim_, is_same ? ahead : end, dtype, device);
  }
  return {tables.cos.narrow(0, begin, end - begin), tables.sin.narrow(0, begin, end - begin)};
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables) {
  if (active_kernels() == Kernels::kReference) return reference::apply_rope(x, tables);
  if (needs_gradient(x)) return ApplyRope::apply(x, tables.cos, tables.sin);
  return rotate(x, tables.cos, tables.sin, 1);
}

}  // namespace adept::nn
