// The forward pass with layers bypassed, to compare with what a layer contributes.
#pragma once

#include <cstdint>
#include <vector>

#include "adept/model/decoder.h"

namespace adept::test {

/// Decoder::forward with `bypassed` layers (ascending) replaced by the identity residual.
inline at::Tensor forward_without(const std::vector<int>& bypassed, const model::Decoder& decoder,
                                  const nn::TokenIds& ids, const model::Context& context) {
  at::Tensor h = decoder.embed(ids);
  std::int64_t begin = 0;
  for (const int l : bypassed) {
    h = decoder.layers(h, begin, l, context);
    begin = l + 1;
  }
  return decoder.layers(h, begin, decoder.num_layers(), context);
}

}  // namespace adept::test
