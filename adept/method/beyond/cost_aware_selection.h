// Which layers get copies where the cost of training them counts; how many for a budget of parameters.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "adept/method/beyond/scores.h"
#include "adept/method/options.h"
#include "adept/model/config.h"

namespace adept::method {

/// What a step costs with copies behind these layers, ascending, a layer once for each copy.
using StepCost = std::function<double(std::span<const int> after)>;

/// The k lowest of `ascending`, layers by score; of those that cannot be told from the k-th lowest, the highest in the
/// model, which are the cheapest to train. Ascending. Throws ConfigError where the scores do not say how certain they
/// are.
std::vector<int> cheapest_of_equals(const std::vector<int>& ascending, int k, const Importance& importance);

/// The k of `layers` whose gains are highest for what a step costs. Ascending. Throws ConfigError for scores that are
/// not gains.
std::vector<int> best_gain_per_cost(const std::vector<int>& layers, int k, std::int64_t copies,
                                    const Importance& importance, const StepCost& step_cost);

/// Whether two scores differ beyond doubt: the 95 % interval of their difference, from the resamples' covariance and
/// Student's t, leaves out 0.
bool are_apart(const Importance& importance, int a, int b);

/// The most layers k whose copies are at most this share (0 .. 1) of the expanded model's parameters. Throws
/// ConfigError if a single one is more.
int num_layers_for_budget(const model::ModelConfig& base, double trainable_share, int copies, int num_excluded);

}  // namespace adept::method
