// Selects layers by score and cost of training, and the number of layers for a parameter budget.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "adept/method/beyond/scores.h"
#include "adept/method/options.h"
#include "adept/model/config.h"

namespace adept::method {

/// Cost of a step with copies after these layers, ascending, each layer repeated per copy.
using CopiesCost = std::function<double(std::span<const int> after)>;

/// The k lowest of `ascending`, layers by score; among those indistinguishable from the k-th lowest, the ones closest
/// to the output, which are the cheapest to train. Ascending. Throws ConfigError if the scores have no confidence.
std::vector<int> cheapest_of_equals(const std::vector<int>& ascending, int k, const Importance& importance);

/// The k of `layers` with the highest first-order improvement relative to the cost of a step. Ascending. Throws
/// ConfigError for other scores.
std::vector<int> best_gain_per_cost(const std::vector<int>& layers, int k, std::int64_t copies,
                                    const Importance& importance, const CopiesCost& step_cost);

/// Whether two scores differ significantly: the 95 % interval of their difference, from the resamples' covariance and
/// Student's t, excludes 0.
bool are_apart(const Importance& importance, int a, int b);

/// The largest number of layers k whose copies are at most this share (0 .. 1) of the expanded model's parameters.
/// Throws ConfigError if one layer exceeds it.
int num_layers_for_budget(const model::ModelConfig& base, double trainable_share, int copies, int num_excluded);

}  // namespace adept::method
