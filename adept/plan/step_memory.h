// The memory of a rank during a step.
#pragma once

#include <cstdint>

#include "adept/plan/buffers.h"
#include "adept/plan/costs.h"
#include "adept/plan/layout.h"
#include "adept/train/memory.h"

namespace adept::plan {

/// Follows the memory of a step through the passes over the layers. `tokens`: of a micro-batch.
train::MemoryUse memory_of(const Layout& layout, const Costs& costs, const Communication& communication,
                           std::int64_t tokens, std::int64_t micro_batches);

}  // namespace adept::plan
