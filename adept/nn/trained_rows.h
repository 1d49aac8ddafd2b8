// Rows of a frozen matrix that train.
//
// Legend: V vocabulary, D model width, K rows that train.
#pragma once

#include <ATen/core/Tensor.h>

namespace adept::nn {

/// The rows `ids` of a matrix (V, D) that train while the rest is frozen: `values` are read instead of the matrix's
/// rows, and only they have a gradient, (K, D).
struct TrainedRows {
  at::Tensor ids;     ///< (K) int64, ascending, on the matrix's device; undefined: none
  at::Tensor values;  ///< (K, D)

  bool any() const { return ids.defined(); }
  /// Of which `tokens` (any shape, int64) the row trains: bool, in their shape.
  at::Tensor contains(const at::Tensor& tokens) const;
  /// The values without a graph, and in `type`.
  TrainedRows detached() const;
  TrainedRows detached(at::ScalarType type) const;
};

/// Some of these tokens whose rows train.
struct TrainedPositions {
  at::Tensor positions;  ///< (n), ascending
  at::Tensor slots;      ///< (n), of their rows in TrainedRows::values
};
/// Of `tokens` (N).
TrainedPositions find_trained(const at::Tensor& tokens, const TrainedRows& trained);

/// `rows` (..., D), the matrix's for `tokens` (...), with the trained ones among them; differentiable by their values.
at::Tensor with_trained(const at::Tensor& rows, const at::Tensor& tokens, const TrainedRows& trained);

/// The whole matrix in `type`, (V, D), with the trained rows; differentiable.
at::Tensor merged_rows(const at::Tensor& matrix, at::ScalarType type, const TrainedRows& trained);

}  // namespace adept::nn
