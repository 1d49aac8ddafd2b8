// Choices of the training step, as the configuration says them.
#pragma once

#include "adept/core/choices.h"

namespace adept::train {

/// What the backward pass computes again instead of keeping it.
enum class ActivationCheckpointing {
  kNone,
  kSelective,  ///< the feed-forward of each layer
  kFull,       ///< whole layers; of the lowest trained one the feed-forward
};

}  // namespace adept::train

namespace adept {

template <>
inline constexpr std::array kChoices<train::ActivationCheckpointing> = {
    Choice{train::ActivationCheckpointing::kNone, "none"},
    Choice{train::ActivationCheckpointing::kSelective, "selective"},
    Choice{train::ActivationCheckpointing::kFull, "full"}};

}  // namespace adept
