// A narrower model in place of a wide one: its layers are rehearsed in less memory and time.
#pragma once

#include <cstdint>

#include "adept/model/config.h"

namespace adept::plan {

/// A model with 1 / factor of the width of another: the activations of its layers have 1 / factor of the bytes.
struct Narrow {
  model::ModelConfig model;
  std::int64_t factor = 1;
};

/// `factor` must divide the widths and the numbers of heads.
model::ModelConfig narrow_by(const model::ModelConfig& model, std::int64_t factor);

/// The narrowest by a power of two that is wide enough (at least 512) that what does not depend on the width does not
/// count.
Narrow narrowed(const model::ModelConfig& model);

}  // namespace adept::plan
