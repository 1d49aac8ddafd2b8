#include "adept/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "adept/core/error.h"

namespace adept::optim {
namespace {

// Progress from `begin` to `end` at `step`, in [0, 1].
double progress(std::int64_t step, std::int64_t begin, std::int64_t end) {
  if (end <= begin) return step >= end ? 1.0 : 0.0;
  return std::clamp(static_cast<double>(step - begin) / static_cast<double>(end - begin), 0.0, 1.0);
}

}  // namespace

double Schedule::factor(std::int64_t step) const {
  if (step < warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  switch (kind) {
    case ScheduleKind::kConstant:
      return 1.0;
    case ScheduleKind::kLinear:
      return 1.0 - (1.0 - min_ratio) * progress(step, warmup_steps, total_steps);
    case ScheduleKind::kCosine:
      return min_ratio +
             (1.0 - min_ratio) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress(step, warmup_steps, total_steps)));
    case ScheduleKind::kWsd:
      return 1.0 - (1.0 - min_ratio) * progress(step, std::max(warmup_steps, total_steps - decay_steps), total_steps);
  }
  throw InternalError("unknown schedule");
}

}  // namespace adept::optim
