// Projections and the token embedding.
//
// Legend: B sequences, T tokens, D input width, E output width, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

namespace adept::nn {

/// x (..., D) times weight (E, D) transposed, plus bias (E) unless it is undefined: (..., E). Nothing is saved for the
/// weight's gradient when the weight is frozen.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// Rows of `table` (V, D) for `ids` (B, T) int64: (B, T, D). Throws c10::IndexError for an id outside 0 .. V-1.
at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table);

}  // namespace adept::nn
