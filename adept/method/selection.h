// Which layers get copies (ADEPT, section 3.2, and alternatives).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "adept/method/importance.h"
#include "adept/method/options.h"
#include "adept/model/config.h"

namespace adept::method {

/// What a step costs with copies behind these layers, ascending, a layer once for each copy.
using StepCost = std::function<double(std::span<const int> after)>;

/// Base indices behind which copies go, ascending, each as often as it gets a copy: num_layers layers, by the strategy
/// (for kManual: `after`). `importance` is for strategies that go by scores; kCostAware needs its stability too, and
/// kGainPerCost `step_cost`. Throws ConfigError for a k that is not in 1 .. L less the excluded
/// layers, an excluded layer that does not exist, and missing scores.
std::vector<int> select_layers(const SelectionOptions& options, int base_num_hidden_layers,
                               const std::optional<Importance>& importance, const StepCost& step_cost = {});

/// Whether two scores differ beyond doubt: the 95 % interval of their difference, from the resamples' covariance and
/// Student's t, leaves out 0.
bool are_apart(const Importance& importance, int a, int b);

/// The most layers k whose copies are at most this share (0 .. 1) of the expanded model's parameters. Throws
/// ConfigError if a single one is more.
int num_layers_for_budget(const model::ModelConfig& base, double trainable_share, int copies, int num_excluded);

}  // namespace adept::method
