// Learning-rate schedules: the factor that multiplies every unit's rate, as a pure function of the step.
#pragma once

#include <cstdint>

#include "adept/optim/options.h"

namespace adept::optim {

struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  std::int64_t total_steps = 1;
  std::int64_t warmup_steps = 0;  ///< linear; the first step has 1/warmup_steps of the peak
  std::int64_t decay_steps = 0;   ///< kWsd: length of the final decay
  double min_ratio = 0.0;         ///< factor at the end of linear, cosine and WSD decay

  /// The factor at `step` (0-based); in [0, 1].
  double factor(std::int64_t step) const;
};

}  // namespace adept::optim
