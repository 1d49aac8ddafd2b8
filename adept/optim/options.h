// Options of the optimizer and the learning rate schedule.
#pragma once

#include "adept/core/choices.h"

namespace adept::optim {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.0;  ///< decoupled; applied to matrices, never to norm gains and biases
};

enum class ScheduleKind {
  kConstant,  ///< warm-up, then 1
  kLinear,    ///< warm-up, then linear to min_ratio at the end
  kCosine,    ///< warm-up, then half a cosine to min_ratio at the end (Loshchilov & Hutter, arXiv 1608.03983)
  kWsd,       ///< warm-up, stable, linear decay to min_ratio (MiniCPM, arXiv 2404.06395)
};

}  // namespace adept::optim

namespace adept {

template <>
inline constexpr std::array kChoices<optim::ScheduleKind> = {
    Choice{optim::ScheduleKind::kConstant, "constant"}, Choice{optim::ScheduleKind::kLinear, "linear"},
    Choice{optim::ScheduleKind::kCosine, "cosine"}, Choice{optim::ScheduleKind::kWsd, "wsd"}};

}  // namespace adept
