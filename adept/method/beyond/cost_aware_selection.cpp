#include "adept/method/beyond/cost_aware_selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "adept/core/error.h"
#include "adept/method/beyond/statistics.h"
#include "adept/model/weights.h"

namespace adept::method {

bool are_apart(const Importance& importance, int a, int b) {
  const auto i = static_cast<std::size_t>(a), j = static_cast<std::size_t>(b);
  const auto& covariance = importance.stability.covariance;
  const double variance = covariance.at(i).at(i) + covariance.at(j).at(j) - 2 * covariance.at(i).at(j);
  const double difference = importance.layers.at(i).score - importance.layers.at(j).score;
  return std::abs(difference) >
         student_t_975(importance.stability.degrees_of_freedom) * std::sqrt(std::max(variance, 0.0));
}

// Layers significantly lower than the k-th lowest stay; the rest come from those indistinguishable from it.
std::vector<int> closest_to_output(const Candidates& c) {
  if (c.importance->stability.covariance.empty())
    throw ConfigError(
        "expand.strategy: cost_aware requires scores with confidence intervals, which these lack. Probe again with at "
        "least two sequences per source.");
  const auto k = static_cast<std::size_t>(c.k);
  std::vector<int> ascending = c.layers;  // by score
  std::sort(ascending.begin(), ascending.end(), [&](int a, int b) { return is_less_important(c, a, b); });
  const int threshold = ascending[k - 1];
  std::vector<int> chosen, equal;
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    const int layer = ascending[i];
    const bool apart = layer != threshold && are_apart(*c.importance, layer, threshold);
    if (!apart) equal.push_back(layer);
    if (apart && i < k) chosen.push_back(layer);
  }
  std::sort(equal.rbegin(), equal.rend());
  equal.resize(k - chosen.size());
  chosen.insert(chosen.end(), equal.begin(), equal.end());
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

// The lowest copy mostly determines the cost of a step, so this tries each lowest layer with the best ones above it.
std::vector<int> best_improvement_per_cost(const Candidates& c) {
  std::vector<int> chosen;
  double highest = 0;
  for (std::size_t i = 0; i + static_cast<std::size_t>(c.k) <= c.layers.size(); ++i) {
    std::vector<int> candidate =
        best_layers(std::vector<int>(c.layers.begin() + static_cast<std::ptrdiff_t>(i) + 1, c.layers.end()), c.k - 1,
                    [&](int a, int b) { return c.score(a) > c.score(b); });
    candidate.insert(candidate.begin(), c.layers[i]);
    double total = 0;
    for (const int layer : candidate) total += c.score(layer);
    const double per_cost = total / c.step_cost(repeat_layers(candidate, c.copies));
    if (!chosen.empty() && per_cost < highest) continue;
    highest = per_cost;
    chosen = candidate;
  }
  return chosen;
}

int num_layers_for_budget(const model::ModelConfig& base, double trainable_share, int copies, int num_excluded) {
  const auto all = static_cast<double>(model::num_parameters(base));
  std::int64_t largest = 0;  // of the layers, whichever are chosen
  for (const model::Layer& layer : base.layers) largest = std::max(largest, model::num_parameters(layer));
  const auto share = [&](int k) { return 1 - all / (all + static_cast<double>(k * copies * largest)); };
  if (share(1) > trainable_share)
    throw ConfigError(
        "trainable (expand.trainable, --trainable): found {:.4g} %; expected at least {:.4g} %, the share of one layer "
        "of this model copied {}.",
        100 * trainable_share, 100 * share(1), copies == 1 ? "once" : fmt::format("{} times", copies));
  int k = 1;
  while (k < static_cast<int>(base.num_hidden_layers) - num_excluded && share(k + 1) <= trainable_share) ++k;
  return k;
}

}  // namespace adept::method
