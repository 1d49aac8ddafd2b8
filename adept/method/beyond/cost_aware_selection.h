// Strategies that select layers by score and cost of training, and the number of layers for a parameter budget.
#pragma once

#include <vector>

#include "adept/method/selection.h"
#include "adept/model/config.h"

namespace adept::method {

/// Of the strategy cost_aware: the k lowest scores; among the layers that are indistinguishable from the k-th lowest,
/// the ones closest to the output, which are the cheapest to train. Throws ConfigError if the scores have no
/// confidence.
std::vector<int> closest_to_output(const Candidates& candidates);

/// Of the strategy gain_per_cost: the k layers with the highest sum of scores relative to the cost of a step.
std::vector<int> best_improvement_per_cost(const Candidates& candidates);

/// Whether two scores differ significantly: the 95 % interval of their difference, from the resamples' covariance and
/// Student's t, excludes 0.
bool are_apart(const Importance& importance, int a, int b);

/// The largest number of layers k whose copies are at most this share (0 .. 1) of the expanded model's parameters.
/// Throws ConfigError if one layer exceeds it.
int num_layers_for_budget(const model::ModelConfig& base, double trainable_share, int copies, int num_excluded);

}  // namespace adept::method
