// Everything besides tokens and weights that a pass through the decoder's layers depends on.
//
// Legend: B sequences, T tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "adept/nn/flash_attention.h"
#include "adept/nn/rope.h"

namespace adept::model {

class KeyValueCache;

/// Called before each half of a layer. What it throws ends the pass: throw_if_interrupted, for passes of which nothing
/// has to be kept.
using BetweenLayers = void (*)();

/// The positions of a batch's tokens, and what they attend to. Default: each row is one document, from its beginning.
///
/// Padding is on the right and attention is causal, so there is no padding mask: nothing after a sequence affects it.
/// The window of a layer is in its configuration.
struct Context {
  /// (B, T) int32 on the CPU: the position in its row where each token's document starts; ascending along T. A token
  /// attends only to its own document. Undefined: each row is one document.
  ///
  /// Positions count from the start of the row all the same: rotary embeddings turn queries and keys relative to each
  /// other, so within a document the result is that of the document alone, up to rounding.
  at::Tensor document_starts{};
  nn::DocumentBounds document_bounds{};  ///< as in nn::Visibility

  /// (B) int64 on the CPU: tokens of each row without its padding; longrope's frequencies depend on the length of a
  /// text. Undefined: no row is padded.
  at::Tensor lengths{};

  /// Keys and values of the tokens before these, which are appended to it; null: there are none. Not together with
  /// document_starts.
  KeyValueCache* cache = nullptr;

  /// With a cache, total tokens of the text, if it continues after these; longrope's frequencies depend on it.
  std::int64_t text_length = 0;

  BetweenLayers between = nullptr;

  /// Rotary tables of this batch, which the first layer that needs them makes for all layers. Shared by copies.
  std::shared_ptr<nn::RowTables> rope_tables = std::make_shared<nn::RowTables>();
};

}  // namespace adept::model
