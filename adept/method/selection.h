// Selects the layers to copy: the k least important (ADEPT, section 3.2), or others. Cost-aware strategies are in
// beyond/cost_aware_selection.h.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "adept/method/beyond/cost_aware_selection.h"
#include "adept/method/beyond/scores.h"
#include "adept/method/options.h"

namespace adept::method {

/// Base indices after which copies are inserted, ascending, repeated per copy: num_layers layers by the strategy (for
/// kManual: `after`). `importance` is for strategies that use scores; kCostAware also requires its stability, and
/// kGainPerCost `step_cost`. Throws ConfigError for a k outside 1 .. L minus the excluded layers, an excluded layer
/// that does not exist, and missing scores.
std::vector<int> select_layers(const SelectionOptions& options, int base_num_hidden_layers,
                               const std::optional<Importance>& importance, const CopiesCost& step_cost = {});

/// The k best of `layers`, ascending by index; among equals, the first.
std::vector<int> best_layers(std::vector<int> layers, int k, const std::function<bool(int, int)>& is_better);

/// Each layer, repeated `copies` times.
std::vector<int> repeat_layers(const std::vector<int>& layers, std::int64_t copies);

}  // namespace adept::method
