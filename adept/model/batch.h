// Token batches as tensors.
//
// Legend: B rows, T columns.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "adept/data/sequences.h"
#include "adept/model/context.h"
#include "adept/nn/token_ids.h"

namespace adept::model {

/// Right-padded sequences and the token that each position is to predict.
struct Batch {
  nn::TokenIds input_ids;                ///< (B, T)
  nn::Targets targets;                   ///< (B, T); nn::kIgnoreIndex where nothing is predicted
  std::int64_t num_targets = 0;          ///< predicted tokens
  at::Tensor document_starts{};          ///< as in Context
  nn::DocumentBounds document_bounds{};  ///< as in Context
  at::Tensor lengths{};                  ///< as in Context

  Context context(BetweenLayers between = nullptr) const {
    return {
        .document_starts = document_starts, .document_bounds = document_bounds, .lengths = lengths, .between = between};
  }
  std::int64_t rows() const { return input_ids.values.size(0); }
  std::int64_t num_positions() const { return input_ids.values.numel(); }
};

/// Copies the batch to `device`.
Batch to_batch(const data::TokenBatch& batch, at::Device device);

}  // namespace adept::model
