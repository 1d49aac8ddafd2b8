// The norm of each head's queries or keys and their rotation (Qwen 3, Gemma 3), in one pass over memory.
//
// Legend: B sequences, H heads, T tokens, E head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"

namespace adept::nn {

/// apply_rope(rms_norm(x, weight, eps, gain).transpose(1, 2), tables) bit for bit: x (B, T, H, E) as a projection
/// leaves it, weight (E), result (B, H, T, E), laid out as (B, T, H, E). Its gradient saves x and one number per head
/// and token.
at::Tensor normed_rope(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTables& tables,
                       GainConvention gain = GainConvention::kRounded);

/// The two passes of normed_rope without a graph, where a kernel has them (has_kernel), for contiguous x.
struct RotatedHeads {
  at::Tensor value;        ///< (B, H, T, E)
  at::Tensor inverse_rms;  ///< (B T H) fp32
};
RotatedHeads normed_rope_forward(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTables& tables,
                                 GainConvention gain);

/// What is not wanted stays undefined.
struct NormedRopeGradients {
  at::Tensor x;       ///< (B, T, H, E)
  at::Tensor weight;  ///< (E)
};
/// `grad` (B, H, T, E).
NormedRopeGradients normed_rope_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                         const at::Tensor& inverse_rms, const RopeTables& tables, GainConvention gain,
                                         bool wants_x, bool wants_weight);

}  // namespace adept::nn
