#include "adept/nn/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <optional>

#include "adept/core/error.h"

namespace adept::nn {

at::Tensor causal_mask(std::int64_t num_queries, std::int64_t num_keys, std::int64_t window, at::Device device) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  const at::Tensor query = at::arange(num_keys - num_queries, num_keys, options).unsqueeze(1);
  const at::Tensor key = at::arange(num_keys, options).unsqueeze(0);
  at::Tensor visible = key <= query;
  if (window > 0) visible.logical_and_(key > query - window);
  return visible;
}

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t window) {
  const std::int64_t num_queries = q.size(2), num_keys = k.size(2);
  ADEPT_CHECK(num_keys >= num_queries && q.size(1) % k.size(1) == 0,
              "attention of {} queries ({} heads) to {} keys ({})", num_queries, q.size(1), num_keys, k.size(1));
  const bool grouped = q.size(1) != k.size(1);
  const bool cut = window > 0 && window < num_keys;
  const bool sees_all = num_queries == 1 && !cut;
  if (sees_all || (!cut && num_queries == num_keys)) {
    return at::scaled_dot_product_attention(q, k, v, std::nullopt, 0.0, /*is_causal=*/!sees_all, std::nullopt, grouped);
  }
  const at::Tensor mask = causal_mask(num_queries, num_keys, window, q.device());
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, /*is_causal=*/false, std::nullopt, grouped);
}

}  // namespace adept::nn
