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
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numbers>
#include <utility>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/reference.h"
#include "adept/nn/transfer.h"

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

/// Of positions 0 .. length-1.
RopeTables tables_of(const at::Tensor& frequencies, double factor, std::int64_t length, at::ScalarType dtype,
                     at::Device device) {
  const at::Tensor angles = at::outer(at::arange(0, length, at::kFloat), frequencies);
  return {angles.cos().mul_(factor).to(device, dtype), angles.sin().mul_(factor).to(device, dtype)};
}

/// Of each position of document_starts (B, T) int32 whether its document has more than `most` tokens: (B, T) bool.
at::Tensor in_longer_documents(const at::Tensor& document_starts, double most) {
  const at::Tensor result = at::zeros(document_starts.sizes(), at::kBool), starts = document_starts.contiguous();
  const std::int64_t columns = starts.size(1);
  for (std::int64_t row = 0; row < starts.size(0); ++row) {
    const std::int32_t* first = starts.const_data_ptr<std::int32_t>() + row * columns;
    for (std::int64_t end = columns; end > 0; end = first[end - 1]) {
      const std::int64_t begin = first[end - 1];
      ADEPT_CHECK(begin >= 0 && begin < end, "the document of position {} starts at {}", end - 1, begin);
      if (static_cast<double>(end - begin) > most) result[row].slice(0, begin, end).fill_(true);
    }
  }
  return result;
}

at::Tensor longrope_frequencies(const at::Tensor& wavelengths, const RopeParameters& p, std::int64_t length) {
  const std::vector<double>& factor = p.is_long(length) ? p.long_factor : p.short_factor;
  ADEPT_CHECK(static_cast<std::int64_t>(factor.size()) == wavelengths.numel(), "{} factors of {} frequencies",
              factor.size(), wavelengths.numel());
  return at::reciprocal(at::tensor(factor, at::kFloat) * wavelengths);
}

/// One pass over each half; `sign` -1 rotates backwards.
at::Tensor rotate_by_aten(const at::Tensor& x, const RopeTables& tables, double sign) {
  const auto of_heads = [](const at::Tensor& table) { return table.dim() == 3 ? table.unsqueeze(1) : table; };
  const at::Tensor cos = of_heads(tables.cos), sin = of_heads(tables.sin);
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
  if (!has_kernel(x)) return rotate_by_aten(x, {cos, sin}, sign);
  const at::Tensor rows = with_contiguous_rows(x);
  const RopeTables tables = {cos.contiguous(), sin.contiguous()};
  at::Tensor result = at::empty_like(rows);  // in the same order in memory
  const kernels::Rope arguments = {.element = element_of(x),
                                   .positions = x.size(2),
                                   .num_heads = x.size(1),
                                   .head_dim = x.size(3),
                                   .rotary_dim = 2 * cos.size(-1),
                                   .sign = static_cast<float>(sign),
                                   .cos = tables.cos.const_data_ptr(),
                                   .sin = tables.sin.const_data_ptr(),
                                   .table_stride = tables.row_stride(),
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
  return tables_of(rope_frequencies(parameters, head_dim, length), parameters.attention_factor, length, dtype, device);
}

bool RowTables::Key::operator==(const Key& other) const {
  return parameters == other.parameters && head_dim == other.head_dim && num_positions == other.num_positions &&
         document_starts.is_same(other.document_starts) && lengths.is_same(other.lengths) && dtype == other.dtype &&
         device == other.device;
}

RopeTables RowTables::get(const Key& key, const std::function<RopeTables()>& make) {
  const std::lock_guard lock(mutex_);
  for (const auto& [known, tables] : tables_)
    if (known == key) return tables;
  return tables_.emplace_back(key, make()).second;
}

RopeCache::RopeCache(RopeParameters parameters, std::int64_t head_dim)
    : parameters_(std::move(parameters)), head_dim_(head_dim) {}

RopeTables RopeCache::get(std::int64_t begin, std::int64_t end, std::int64_t length, at::ScalarType dtype,
                          at::Device device) {
  const RopeTables tables = table(parameters_.is_long(length), end, dtype, device);
  return {tables.cos.narrow(0, begin, end - begin), tables.sin.narrow(0, begin, end - begin)};
}

RopeTables RopeCache::get_rows(std::int64_t num_positions, const at::Tensor& document_starts, const at::Tensor& lengths,
                               at::ScalarType dtype, at::Device device, RowTables* kept) {
  if (!parameters_.is_long(num_positions) || !(document_starts.defined() || lengths.defined()))
    return get(0, num_positions, num_positions, dtype, device);
  const auto make = [&] { return make_rows(num_positions, document_starts, lengths, dtype, device); };
  if (kept == nullptr) return make();
  return kept->get({.parameters = parameters_,
                    .head_dim = head_dim_,
                    .num_positions = num_positions,
                    .document_starts = document_starts,
                    .lengths = lengths,
                    .dtype = dtype,
                    .device = device},
                   make);
}

RopeTables RopeCache::make_rows(std::int64_t num_positions, const at::Tensor& document_starts,
                                const at::Tensor& lengths, at::ScalarType dtype, at::Device device) {
  const double most = parameters_.original_max_position_embeddings;
  const at::Tensor in_long = document_starts.defined() ? in_longer_documents(document_starts, most)
                                                       : lengths.gt(most).unsqueeze(1);  // (B, T) or (B, 1)
  const auto tables = [&](bool is_long) {
    const RopeTables all = table(is_long, num_positions, dtype, device);
    return RopeTables{all.cos.narrow(0, 0, num_positions), all.sin.narrow(0, 0, num_positions)};
  };
  if (!in_long.any().item<bool>()) return tables(false);
  if (in_long.all().item<bool>()) return tables(true);
  const at::Tensor choose_long = to_device(in_long.unsqueeze(-1), device);  // (B, T, 1) or (B, 1, 1)
  const RopeTables of_short = tables(false), of_long = tables(true);
  return {at::where(choose_long, of_long.cos, of_short.cos), at::where(choose_long, of_long.sin, of_short.sin)};
}

RopeTables RopeCache::table(bool is_long, std::int64_t length, at::ScalarType dtype, at::Device device) {
  const std::lock_guard lock(mutex_);
  RopeTables& tables = is_long ? long_ : short_;
  const bool fits = tables.cos.defined() && tables.cos.scalar_type() == dtype && tables.cos.device() == device;
  const std::int64_t known = fits ? tables.cos.size(0) : 0;
  if (known < length) {
    const at::NoGradGuard no_grad;
    const auto text_length =
        static_cast<std::int64_t>(parameters_.original_max_position_embeddings) + (is_long ? 1 : 0);
    tables = tables_of(rope_frequencies(parameters_, head_dim_, text_length), parameters_.attention_factor,
                       std::max(length, 2 * known), dtype, device);
  }
  return tables;
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables) {
  if (active_kernels() == Kernels::kReference) return reference::apply_rope(x, tables);
  if (needs_gradient(x)) return ApplyRope::apply(x, tables.cos, tables.sin);
  return rotate(x, tables.cos, tables.sin, 1);
}

}  // namespace adept::nn
