// The norm of each head's queries or keys and their rotation (Qwen 3), in one pass over memory.
//
// Legend: B sequences, H heads, T tokens, E head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include "adept/nn/rope.h"

namespace adept::nn {

/// apply_rope(rms_norm(x, gain, eps).transpose(1, 2), tables) bit for bit: x (B, T, H, E) as a projection leaves it,
/// gain (E), result (B, H, T, E), laid out as (B, T, H, E). Its gradient saves x and one number per head and token.
at::Tensor normed_rope(const at::Tensor& x, const at::Tensor& gain, double eps, const RopeTables& tables);

/// The two passes of normed_rope without a graph, where a kernel has them (has_kernel), for contiguous x.
struct RotatedHeads {
  at::Tensor value;        ///< (B, H, T, E)
  at::Tensor inverse_rms;  ///< (B T H) fp32
};
RotatedHeads normed_rope_forward(const at::Tensor& x, const at::Tensor& gain, double eps, const RopeTables& tables);

/// What is not wanted stays undefined.
struct NormedRopeGradients {
  at::Tensor x;     ///< (B, T, H, E)
  at::Tensor gain;  ///< (E)
};
/// `grad` (B, H, T, E).
NormedRopeGradients normed_rope_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& gain,
                                         const at::Tensor& inverse_rms, const RopeTables& tables, bool wants_x,
                                         bool wants_gain);

}  // namespace adept::nn
