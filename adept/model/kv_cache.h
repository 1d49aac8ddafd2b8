// Keys and values of the tokens seen so far, for generation.
//
// Legend: B sequences, K key-value heads, S tokens so far, T new tokens, E head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace adept::model {

/// One growing buffer per layer. Holds all tokens; a layer with a sliding window reads the tail of its buffer.
class KeyValueCache {
 public:
  explicit KeyValueCache(std::int64_t num_layers) : layers_(static_cast<std::size_t>(num_layers)) {}

  /// Tokens in the cache of `layer`: the position of the next token.
  std::int64_t length(std::int64_t layer) const;

  /// Appends k and v (B, K, T, E) and returns the keys and values that the new queries may see: (B, K, S, E), views of
  /// the buffer. With window > 0 only the last window - 1 + T tokens are returned.
  std::pair<at::Tensor, at::Tensor> append(std::int64_t layer, const at::Tensor& k, const at::Tensor& v,
                                           std::int64_t window);

 private:
  struct Layer {
    at::Tensor keys, values;  // (B, K, capacity, E)
    std::int64_t length = 0;
  };
  std::vector<Layer> layers_;
};

}  // namespace adept::model
