// Causal attention with grouped queries and sliding windows.
//
// Legend: B sequences, H query heads, K key-value heads (H a multiple of K), T queries, S keys (S >= T), E head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace adept::nn {

/// softmax(q k^T / sqrt(E)) v for q (B, H, T, E), k and v (B, K, S, E): (B, H, T, E).
///
/// Query t stands at key position S - T + t and sees the keys up to its own position; `window` > 0 restricts it to the
/// last `window` of them, itself included (0: no restriction). Head h reads key-value head h / (H / K).
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t window = 0);

/// The mask that causal_attention applies: bool (T, S), true where query t may see key s.
at::Tensor causal_mask(std::int64_t num_queries, std::int64_t num_keys, std::int64_t window, at::Device device);

}  // namespace adept::nn
