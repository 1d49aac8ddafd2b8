// Causal attention on the CPU, block by block, so that no (queries x keys) matrix is ever stored: forward as in
// FlashAttention-2 (Dao, arXiv 2307.08691), backward by stripes of some queries x all their keys.
//
// Legend: B sequences, H query heads, K key-value heads (H a multiple of K), T queries, S keys (S >= T), E head_dim.
#pragma once

#include <cstdint>

#include "adept/kernels/tensors.h"

namespace adept::kernels {

/// The arguments of both passes. Query t of a sequence stands at key position S - T + t; it sees the keys from
/// first_key[t] to its own position.
struct Attention {
  Element element = Element::kFloat;
  std::int64_t batch = 0, num_heads = 0, num_key_value_heads = 0, num_queries = 0, num_keys = 0, head_dim = 0;
  float scale = 1;                          ///< of the scores
  float soft_cap = 0;                       ///< scores s become soft_cap tanh(s / soft_cap); 0: they stay
  const std::int32_t* first_key = nullptr;  ///< (B, T), ascending along T, never beyond the query's own position
  std::int64_t first_key_stride = 0;        ///< from sequence to sequence; 0: the same for all
  Heads q, k, v;
  Heads out;                               ///< forward: written
  float* log_sum_exp = nullptr;            ///< (B, H, T): forward: written unless null; backward: read
  Heads grad_out, grad_q, grad_k, grad_v;  ///< backward: the last three are written
  /// Number of tasks per key-value head; each takes a share of the queries. In the backward pass each task has its own
  /// sums for grad_k and grad_v.
  std::int64_t num_splits = 1;
  /// Backward with several splits: (splits, B, K, S, E) each, written instead of grad_k and grad_v.
  float *grad_k_splits = nullptr, *grad_v_splits = nullptr;
};

}  // namespace adept::kernels
