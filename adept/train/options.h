// Options of the training step.
#pragma once

#include "adept/core/choices.h"

namespace adept::train {

/// Activations that the backward pass recomputes instead of keeping.
enum class ActivationCheckpointing {
  kNone,
  kSelective,  ///< the feed-forward of each layer
  kFull,       ///< whole layers; in the lowest trained layer, only the feed-forward
};

}  // namespace adept::train

namespace adept {

template <>
inline constexpr std::array kChoices<train::ActivationCheckpointing> = {
    Choice{train::ActivationCheckpointing::kNone, "none"},
    Choice{train::ActivationCheckpointing::kSelective, "selective"},
    Choice{train::ActivationCheckpointing::kFull, "full"}};

}  // namespace adept
