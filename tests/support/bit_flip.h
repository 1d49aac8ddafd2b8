// Faults of memory: a bit that changes by itself, which ATen does not know of.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "adept/core/error.h"
#include "adept/model/decoder.h"

namespace adept::test {

/// Flips a bit of element `index`, in the order of memory, of a tensor on the CPU that is not mapped.
inline void flip_bit(const at::Tensor& tensor, std::int64_t index, int bit) {
  auto* bytes = static_cast<std::uint8_t*>(tensor.data_ptr()) + index * tensor.element_size() + bit / 8;
  *bytes = static_cast<std::uint8_t>(*bytes ^ (1U << (bit % 8)));
}

/// The tensor of this name. Those of a const decoder are not const.
inline at::Tensor& tensor_of(const model::Decoder& decoder, const std::string& name) {
  auto& weights = const_cast<model::Weights&>(decoder.weights());
  for (const model::Parameter& p : model::named_parameters(decoder.config(), weights))
    if (p.name == name) return *p.tensor;
  throw InternalError("no tensor " + name);
}

}  // namespace adept::test
