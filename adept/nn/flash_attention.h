// ATen's flash attention, for devices that have it: no mask and no scores of every query and key are stored. Documents
// are sequences of variable length, windows its arguments.
//
// Legend: B sequences, H query heads, K key-value heads, T tokens, E head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace adept::nn {

struct Visibility;
struct Scoring;

/// The documents of all rows of a batch, one after the other (cu_seqlens): what flash attention knows of them.
struct DocumentBounds {
  at::Tensor offsets;  ///< (documents + 1) int32 on the device: the first token of each, then the number of tokens
  std::int64_t longest = 0;  ///< tokens of the longest document

  DocumentBounds() = default;  // no aggregate: GCC 12 takes one in an aggregate, made from {}, for uninitialized
  bool defined() const { return offsets.defined(); }
};

/// Of document_starts (B, T) as in Visibility, for a pass on `device`.
DocumentBounds document_bounds(const at::Tensor& document_starts, at::Device device);

/// Whether flash_attention() can do it: as many keys as queries, in bf16 or fp16, without a soft cap, on a device for
/// which ATen chooses it.
bool has_flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Scoring& scoring);

/// causal_attention() of q (B, H, T, E), k and v (B, K, T, E): (B, H, T, E), laid out as (B, T, H, E). Differentiable.
at::Tensor flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Visibility& visibility,
                           const Scoring& scoring);

}  // namespace adept::nn
