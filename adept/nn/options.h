// Which implementation the operations take, as the configuration says it.
#pragma once

#include "adept/core/choices.h"

namespace adept::nn {

/// kFused: kernels on the CPU in fp32 and bf16, ATen's operations elsewhere. kReference: reference.h everywhere.
enum class Kernels { kFused, kReference };

}  // namespace adept::nn

namespace adept {

template <>
inline constexpr std::array kChoices<nn::Kernels> = {Choice{nn::Kernels::kFused, "fused"},
                                                     Choice{nn::Kernels::kReference, "reference"}};

}  // namespace adept
