// Which layers get copies: the k least important (ADEPT, section 3.2), or others. Those that look at what a step costs
// are in beyond/cost_aware_selection.h.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "adept/method/beyond/cost_aware_selection.h"
#include "adept/method/beyond/scores.h"
#include "adept/method/options.h"

namespace adept::method {

/// Base indices behind which copies go, ascending, each as often as it gets a copy: num_layers layers, by the strategy
/// (for kManual: `after`). `importance` is for strategies that go by scores; kCostAware needs its stability too, and
/// kGainPerCost `step_cost`. Throws ConfigError for a k that is not in 1 .. L less the excluded
/// layers, an excluded layer that does not exist, and missing scores.
std::vector<int> select_layers(const SelectionOptions& options, int base_num_hidden_layers,
                               const std::optional<Importance>& importance, const StepCost& step_cost = {});

/// The k best of `layers`, ascending by index; of equals the first.
std::vector<int> best_layers(std::vector<int> layers, int k, const std::function<bool(int, int)>& is_better);

/// Each of the layers `copies` times.
std::vector<int> repeat_layers(const std::vector<int>& layers, std::int64_t copies);

}  // namespace adept::method
