// The time that a run takes to measure models: before and after its training, and in it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "adept/plan/costs.h"
#include "adept/plan/machine.h"
#include "adept/plan/measuring.h"
#include "adept/run/inspect.h"

namespace adept::plan {

/// The time of one of the stages of StageMemory.
struct StageTime {
  std::string name;
  std::int64_t times = 1;      ///< in the run
  std::int64_t positions = 0;  ///< tokens of its batches, with padding
  double flops = 0;            ///< necessary operations of all ranks, once
  double seconds = 0;          ///< once
  double total() const { return static_cast<double>(times) * seconds; }
};

/// In the order of a run of `steps`. Where the probe may stop early, it reads all of its text.
std::vector<StageTime> measuring_time(const PlannedTraining& training, Rehearsals& rehearsals, const Machine& machine,
                                      const run::MeasuredText& text, std::int64_t steps);

}  // namespace adept::plan
