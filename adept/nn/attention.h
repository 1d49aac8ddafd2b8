// Causal attention with grouped queries, sliding windows, and documents that do not attend to each other.
//
// Legend: B sequences, H query heads, K key-value heads (H a multiple of K), T queries, S keys (S >= T), E head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "adept/nn/flash_attention.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"

namespace adept::nn {

/// The keys that a query attends to, apart from causality.
struct Visibility {
  std::int64_t window = 0;       ///< only this many last keys, including the query's own; 0: no restriction
  at::Tensor document_starts{};  ///< (B, T) int32 on the CPU: the key position where the query's document starts;
                                 ///< ascending along T. Undefined: one document. cu_seqlens of packed sequences, spread
                                 ///< over their tokens.
  DocumentBounds document_bounds{};  ///< of document_starts, for a pass on a GPU; undefined: computed where needed
};

/// How the product of a query and a key is transformed before the softmax.
struct Scoring {
  std::optional<double> scale{};  ///< of the products; 1 / sqrt(E) unless given
  double soft_cap = 0;            ///< scaled products s become soft_cap tanh(s / soft_cap) (Gemma 2); 0: they stay
};

/// softmax(scores of q k^T) v, for q (B, H, T, E), k and v (B, K, S, E): (B, H, T, E), laid out as (B, T, H, E).
///
/// Query t is at key position S - T + t. Head h reads key-value head h / (H / K). On the CPU in fp32 and bf16 no (T x
/// S) matrix is stored and blocks that no query attends to are skipped; sums are in fp32. Its gradient saves q, k, v
/// and a number for each query and head, not the result. On a GPU in bf16 and fp16 ATen's flash attention stores none
/// either. Elsewhere, and for a soft cap, ATen's operations work on a block of queries at a time. Differentiable once.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const Visibility& visibility = {}, const Scoring& scoring = {});

/// The norms of each head's queries and keys (Qwen 3, Gemma 3).
struct HeadNorms {
  at::Tensor q, k;  ///< weights, (E)
  double eps = 0;
  GainConvention gain = GainConvention::kRounded;
};

/// causal_attention of queries and keys that are normalised and then rotated: q (B, T, H, E) and k (B, T, K, E) as
/// their projections leave them, v (B, K, T, E). Its gradient saves these and recomputes the inputs of attention.
at::Tensor normed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeadNorms& norms,
                            const RopeTables& tables, const Visibility& visibility = {}, const Scoring& scoring = {});

/// The mask of causal_attention: bool (1 or B, 1, T, S), true if query t attends to key s.
at::Tensor causal_mask(std::int64_t num_queries, std::int64_t num_keys, const Visibility& visibility,
                       at::Device device);

}  // namespace adept::nn
