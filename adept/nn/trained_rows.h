// Rows of a frozen matrix that train.
//
// Legend: V vocabulary, D model width, K rows that train.
#pragma once

#include <ATen/core/Tensor.h>

#include "adept/nn/token_ids.h"

namespace adept::nn {

/// The rows `ids` of a matrix (V, D) that train while the rest is frozen: `values` are read instead of the matrix's
/// rows, and only they have a gradient, (K, D).
struct TrainedRows {
  TokenIds ids;       ///< (K), ascending, on the matrix's device; undefined: none
  at::Tensor values;  ///< (K, D)

  bool any() const { return ids.defined(); }
  /// Whether the row of one of these tokens trains.
  bool contain_any(const TokenIds& tokens) const;
  /// The values without a graph, and in `type`.
  TrainedRows detached() const;
  TrainedRows detached(at::ScalarType type) const;
};

/// Some of these tokens whose rows train; on the matrix's device.
struct TrainedPositions {
  at::Tensor positions;  ///< (n), ascending
  at::Tensor slots;      ///< (n), of their rows in TrainedRows::values
};
/// Of `tokens` (N), on the CPU.
TrainedPositions find_trained(const at::Tensor& tokens, const TrainedRows& trained);

/// `rows` (..., D), the matrix's for `tokens` (...) on the CPU, with the trained ones among them; differentiable by
/// their values.
at::Tensor with_trained(const at::Tensor& rows, const at::Tensor& tokens, const TrainedRows& trained);

/// The whole matrix in `type`, (V, D), with the trained rows; differentiable.
at::Tensor merged_rows(const at::Tensor& matrix, at::ScalarType type, const TrainedRows& trained);

}  // namespace adept::nn
