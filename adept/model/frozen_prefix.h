// The lowest layers of a decoder while they are frozen: their activations are computed once and reused.
//
// Legend: B sequences, T tokens, D hidden_size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "adept/model/activation_cache.h"
#include "adept/model/context.h"
#include "adept/model/decoder.h"

namespace adept::model {

/// A decoder with an optional cache for the activations of its layers below cache->num_layers(), which must not change
/// while it is in use. Tokens with a trained row in the embedding never use the cache. A view that refers to both. A
/// decoder converts to a FrozenPrefix without a cache.
class FrozenPrefix {
 public:
  FrozenPrefix(const Decoder& decoder) : decoder_(&decoder) {}  // NOLINT(google-explicit-constructor)
  /// `keeps_new`: whether to add missing activations to the cache, because the same tokens come again.
  FrozenPrefix(const Decoder& decoder, ActivationCache* cache, bool keeps_new)
      : decoder_(&decoder), cache_(cache), keeps_new_(keeps_new) {}

  const Decoder& decoder() const { return *decoder_; }

  /// ids (B, T) -> h_end (B, T, D), without a graph. The result does not depend on the cache.
  at::Tensor hidden(const nn::TokenIds& ids, std::int64_t end, const Context& context) const;

 private:
  const Decoder* decoder_;
  ActivationCache* cache_ = nullptr;
  bool keeps_new_ = false;
};

}  // namespace adept::model
