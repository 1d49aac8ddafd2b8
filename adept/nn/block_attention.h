// Attention by ATen's operations, block by block, for what no kernel does: on a GPU fp32 with documents or windows and
// soft caps, on the CPU fp64.
//
// Legend: B sequences, H query heads, K key-value heads, T queries, S keys, E head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace adept::nn {

struct Visibility;
struct Scoring;

/// Queries that are computed at a time.
inline constexpr std::int64_t kBlockQueries = 256;

/// causal_attention() of q (B, H, T, E), k and v (B, K, S, E): (B, H, T, E), laid out as (B, T, H, E).
///
/// Each block of queries reads the keys of its own document and window alone, so masks and scores are at most
/// (kBlockQueries x S). The backward pass computes them again. Blocks are of all sequences; with documents each
/// sequence has its own.
at::Tensor block_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Visibility& visibility,
                           const Scoring& scoring);

}  // namespace adept::nn
