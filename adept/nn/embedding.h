// The matrix with a row for each token, as the embedding of ids and as the head for hidden states.
//
// Legend: B sequences, T tokens, D model width, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include "adept/nn/token_ids.h"
#include "adept/nn/trained_rows.h"

namespace adept::nn {

/// Factor of the embeddings.
struct EmbeddingScale {
  double factor = 1;
  bool is_rounded = false;  ///< to their type, before the product is (Gemma)
};

/// Rows of `table` (V, D), with those of `trained`, for `ids` (B, T) on its device, times `scale`: (B, T, D), in
/// `dtype`. Throws c10::IndexError for an id outside 0 .. V-1.
at::Tensor embedding(const TokenIds& ids, const at::Tensor& table, at::ScalarType dtype,
                     const EmbeddingScale& scale = {}, const TrainedRows& trained = {});

/// A matrix with a row for each token; a tied head is another handle to the same matrix. Only `nn` knows how it is
/// stored.
struct Embedding {
  at::Tensor weight;      ///< (V, D)
  TrainedRows trained{};  ///< while only some rows train; then `weight` is frozen

  /// Whether a row of these ids trains.
  bool trains_any_of(const TokenIds& ids) const { return trained.contain_any(ids); }
  /// Without a graph.
  Embedding detached() const { return {weight.detach(), trained.detached()}; }

  /// embedding() of ids (B, T) on any device: (B, T, D).
  at::Tensor rows(const TokenIds& ids, at::ScalarType dtype, const EmbeddingScale& scale) const;

  /// hidden (..., D) times it: (..., V), softly capped where soft_cap is not 0.
  at::Tensor logits(const at::Tensor& hidden, double soft_cap) const;

  /// linear_cross_entropy() and linear_cross_entropy_per_token() with it as the head; targets on any device.
  at::Tensor loss_sum(const at::Tensor& hidden, const Targets& targets, double soft_cap,
                      at::Tensor* token_losses = nullptr) const;
  at::Tensor token_losses(const at::Tensor& hidden, const Targets& targets, double soft_cap) const;
};

}  // namespace adept::nn
