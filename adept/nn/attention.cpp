#include "adept/nn/attention.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include "adept/nn/autograd.h"
#include "adept/nn/block_attention.h"
#include "adept/nn/kernels.h"
#include "adept/nn/normed_rope.h"
#include "adept/nn/reference.h"
#include "adept/nn/transfer.h"

namespace adept::nn {
namespace {

/// (B, heads, T, E) in the memory order (B, T, heads, E), which the projections around it read and write.
at::Tensor empty_like_projected(const at::Tensor& t) {
  return at::empty({t.size(0), t.size(2), t.size(1), t.size(3)}, t.options()).transpose(1, 2);
}

/// Of each query the first key that it sees: (1 or B, T) int32.
at::Tensor first_keys(std::int64_t num_queries, std::int64_t num_keys, const Visibility& visibility) {
  const at::TensorOptions options(at::kInt);
  at::Tensor first = at::arange(num_keys - num_queries, num_keys, options).unsqueeze(0);  // each query's own position
  first = visibility.window > 0 ? (first - (visibility.window - 1)).clamp_min_(0) : first.zero_();
  if (visibility.document_starts.defined()) first = first.maximum(visibility.document_starts);
  return first.to(at::kInt).contiguous();
}

double scale_of(const Scoring& scoring, const at::Tensor& q) {
  return scoring.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
}

void save_scoring(AutogradContext* context, const Scoring& scoring) {
  context->saved_data["scale"] = scoring.scale ? c10::IValue(*scoring.scale) : c10::IValue();
  context->saved_data["soft_cap"] = scoring.soft_cap;
}
Scoring saved_scoring(AutogradContext* context) {
  return {.scale = context->saved_data["scale"].toOptional<double>(),
          .soft_cap = context->saved_data["soft_cap"].toDouble()};
}

kernels::Attention attention_arguments(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       const at::Tensor& first, const Scoring& scoring, const at::Tensor& log_sum_exp) {
  kernels::Attention attention;
  attention.element = element_of(q);
  attention.batch = q.size(0);
  attention.num_heads = q.size(1);
  attention.num_key_value_heads = k.size(1);
  attention.num_queries = q.size(2);
  attention.num_keys = k.size(2);
  attention.head_dim = q.size(3);
  attention.scale = static_cast<float>(scale_of(scoring, q));
  attention.soft_cap = static_cast<float>(scoring.soft_cap);
  attention.first_key = first.const_data_ptr<std::int32_t>();
  attention.first_key_stride = first.size(0) == 1 ? 0 : first.size(1);
  // So many that every thread gets the same number of tasks.
  const std::int64_t heads = attention.batch * attention.num_key_value_heads, threads = at::get_num_threads();
  attention.num_splits = std::min(threads / std::gcd(heads, threads),
                                  kernels::divide_up(attention.num_queries, kernels::stripe_rows(attention)));
  attention.q = heads_of(q);
  attention.k = heads_of(k);
  attention.v = heads_of(v);
  attention.log_sum_exp = log_sum_exp.defined() ? log_sum_exp.data_ptr<float>() : nullptr;
  return attention;
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& first,
                  const Scoring& scoring, const at::Tensor& log_sum_exp) {
  at::Tensor out = empty_like_projected(q);
  kernels::Attention attention = attention_arguments(q, k, v, first, scoring, log_sum_exp);
  attention.out = heads_of(out);
  for_each_task("attention", kernels::num_tasks(attention), [&](std::int64_t task) {
    kernels::functions().attention_forward(attention, task, task + 1,
                                           thread_workspace(kernels::ForwardWorkspace::size(attention)));
  });
  return out;
}

struct AttentionGradients {
  at::Tensor q, k, v;
};

/// Of attend(), which left `log_sum_exp`.
AttentionGradients attention_gradients(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       const at::Tensor& first, const Scoring& scoring, const at::Tensor& log_sum_exp,
                                       const at::Tensor& grad_out) {
  const at::Tensor grad_rows = with_contiguous_rows(grad_out);
  AttentionGradients gradients = {empty_like_projected(q), empty_like_projected(k), empty_like_projected(v)};
  kernels::Attention attention = attention_arguments(q, k, v, first, scoring, log_sum_exp);
  attention.grad_out = heads_of(grad_rows);
  attention.grad_q = heads_of(gradients.q);
  attention.grad_k = heads_of(gradients.k);
  attention.grad_v = heads_of(gradients.v);
  at::Tensor splits;  // of grad_k and grad_v
  if (attention.num_splits > 1) {
    splits =
        at::empty({2, attention.num_splits, k.size(0), k.size(1), k.size(2), k.size(3)}, k.options().dtype(at::kFloat));
    attention.grad_k_splits = splits[0].data_ptr<float>();
    attention.grad_v_splits = splits[1].data_ptr<float>();
  }
  for_each_task("attention_backward", kernels::num_tasks(attention), [&](std::int64_t task) {
    kernels::functions().attention_backward(attention, task, task + 1,
                                            thread_workspace(kernels::BackwardWorkspace::size(attention)));
  });
  if (splits.defined()) {
    gradients.k.copy_(splits[0].sum(0));
    gradients.v.copy_(splits[1].sum(0));
  }
  return gradients;
}

at::Tensor empty_log_sum_exp(const at::Tensor& q) {
  return at::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(at::kFloat));
}

class FusedAttention : public torch::autograd::Function<FusedAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& first, const Scoring& scoring) {
    const at::Tensor log_sum_exp = empty_log_sum_exp(q);
    at::Tensor out = attend(q, k, v, first, scoring, log_sum_exp);
    context->save_for_backward({q, k, v, first, log_sum_exp});
    save_scoring(context, scoring);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("causal_attention");
    const variable_list saved = context->get_saved_variables();
    const AttentionGradients gradients =
        attention_gradients(saved[0], saved[1], saved[2], saved[3], saved_scoring(context), saved[4], outputs[0]);
    return {gradients.q, gradients.k, gradients.v, at::Tensor(), at::Tensor()};
  }
};

class NormedAttention : public torch::autograd::Function<NormedAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& q_norm, const at::Tensor& k_norm, double eps, GainConvention gain,
                            const at::Tensor& cos, const at::Tensor& sin, const at::Tensor& first,
                            const Scoring& scoring) {
    const at::Tensor queries = normed_rope_forward(q, q_norm, eps, {cos, sin}, gain).value;
    const at::Tensor keys = normed_rope_forward(k, k_norm, eps, {cos, sin}, gain).value;
    const at::Tensor log_sum_exp = empty_log_sum_exp(queries);
    at::Tensor out = attend(queries, keys, v, first, scoring, log_sum_exp);
    context->save_for_backward({q, k, v, q_norm, k_norm, cos, sin, first, log_sum_exp});
    context->saved_data["eps"] = eps;
    save_scoring(context, scoring);
    save_enum(context, "gain", gain);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("normed_attention");
    const variable_list saved = context->get_saved_variables();
    const double eps = context->saved_data["eps"].toDouble();
    const auto gain = saved_enum<GainConvention>(context, "gain");
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &q_norm = saved[3], &k_norm = saved[4];
    const RopeTables tables = {saved[5], saved[6]};
    const at::Tensor &first = saved[7], &log_sum_exp = saved[8];
    const RotatedHeads queries = normed_rope_forward(q, q_norm, eps, tables, gain);
    const RotatedHeads keys = normed_rope_forward(k, k_norm, eps, tables, gain);
    const AttentionGradients gradients =
        attention_gradients(queries.value, keys.value, v, first, saved_scoring(context), log_sum_exp, outputs[0]);
    const auto wants = [&](std::size_t i) { return context->needs_input_grad(i); };
    const NormedRopeGradients of_q =
        normed_rope_backward(gradients.q, q, q_norm, queries.inverse_rms, tables, gain, wants(0), wants(3));
    const NormedRopeGradients of_k =
        normed_rope_backward(gradients.k, k, k_norm, keys.inverse_rms, tables, gain, wants(1), wants(4));
    return {of_q.x, of_k.x, gradients.v, of_q.weight, of_k.weight, {}, {}, {}, {}, {}, {}};
  }
};

/// ATen's, for what the kernel does not do: other devices, fp64, and single queries, which read every key once.
at::Tensor by_aten(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Visibility& visibility,
                   const Scoring& scoring) {
  if (has_flash_attention(q, k, v, scoring)) return flash_attention(q, k, v, visibility, scoring);
  const std::int64_t num_queries = q.size(2), num_keys = k.size(2);
  const bool cut = (visibility.window > 0 && visibility.window < num_keys) || visibility.document_starts.defined();
  const bool sees_all = num_queries == 1, grouped = q.size(1) != k.size(1);
  if (scoring.soft_cap > 0 || cut || (!sees_all && (num_queries != num_keys || grouped)))
    return block_attention(q, k, v, visibility, scoring);
  return at::scaled_dot_product_attention(q, k, v, std::nullopt, 0.0, /*is_causal=*/!sees_all, scoring.scale, grouped);
}

}  // namespace

at::Tensor causal_mask(std::int64_t num_queries, std::int64_t num_keys, const Visibility& visibility,
                       at::Device device) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  const at::Tensor query = at::arange(num_keys - num_queries, num_keys, options).unsqueeze(1);
  const at::Tensor key = at::arange(num_keys, options).unsqueeze(0);
  at::Tensor visible = key <= query;
  if (visibility.window > 0) visible = visible.logical_and(key > query - visibility.window);
  visible = visible.unsqueeze(0).unsqueeze(0);
  if (!visibility.document_starts.defined()) return visible;
  const at::Tensor start = to_device(visibility.document_starts, device).unsqueeze(1).unsqueeze(3);  // (B, 1, T, 1)
  return visible.logical_and(key >= start);
}

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Visibility& visibility,
                            const Scoring& scoring) {
  ADEPT_CHECK(k.size(2) >= q.size(2) && q.size(1) % k.size(1) == 0 && k.sizes() == v.sizes(),
              "attention of {} queries ({} heads) to {} keys ({})", q.size(2), q.size(1), k.size(2), k.size(1));
  if (active_kernels() == Kernels::kReference) return reference::causal_attention(q, k, v, visibility, scoring);
  if (!has_kernel(q) || q.size(2) <= 1 || q.numel() == 0) return by_aten(q, k, v, visibility, scoring);
  const at::Tensor first = first_keys(q.size(2), k.size(2), visibility);
  const at::Tensor rows[] = {with_contiguous_rows(q), with_contiguous_rows(k), with_contiguous_rows(v)};
  if (needs_gradient(q) || needs_gradient(k) || needs_gradient(v))
    return FusedAttention::apply(rows[0], rows[1], rows[2], first, scoring);
  return attend(rows[0], rows[1], rows[2], first, scoring, {});
}

at::Tensor normed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadNorms& norms,
                            const RopeTables& tables, const Visibility& visibility, const Scoring& scoring) {
  const std::int64_t num_tokens = q.size(1);
  ADEPT_CHECK(k.size(1) == num_tokens && q.size(2) % k.size(2) == 0 && v.size(2) == num_tokens &&
                  v.size(1) == k.size(2) && q.size(3) == k.size(3) && v.size(3) == k.size(3),
              "attention of {} queries ({} heads) to {} keys ({}) and {} values ({})", num_tokens, q.size(2), k.size(1),
              k.size(2), v.size(2), v.size(1));
  const bool is_recorded =
      needs_gradient(q) || needs_gradient(k) || needs_gradient(v) || needs_gradient(norms.q) || needs_gradient(norms.k);
  if (active_kernels() == Kernels::kReference || !has_kernel(q) || q.numel() == 0 || num_tokens <= 1 || !is_recorded)
    return causal_attention(normed_rope(q, norms.q, norms.eps, tables, norms.gain),
                            normed_rope(k, norms.k, norms.eps, tables, norms.gain), v, visibility, scoring);
  return NormedAttention::apply(q.contiguous(), k.contiguous(), with_contiguous_rows(v), norms.q, norms.k, norms.eps,
                                norms.gain, tables.cos, tables.sin, first_keys(num_tokens, num_tokens, visibility),
                                scoring);
}

}  // namespace adept::nn
