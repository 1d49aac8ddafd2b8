#include "adept/method/selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "adept/core/error.h"
#include "adept/method/statistics.h"
#include "adept/model/weights.h"

namespace adept::method {
namespace {

// The k best of `layers` by `is_better`, ascending by index.
template <typename Better>
std::vector<int> best(std::vector<int> layers, int k, const Better& is_better) {
  std::stable_sort(layers.begin(), layers.end(), is_better);
  layers.resize(static_cast<std::size_t>(k));
  std::sort(layers.begin(), layers.end());
  return layers;
}

// The last layer of each of k groups, as equal as can be.
std::vector<int> evenly_spread(const std::vector<int>& layers, int k) {
  std::vector<int> chosen;
  for (int i = 1; i <= k; ++i)
    chosen.push_back(layers[static_cast<std::size_t>(i) * layers.size() / static_cast<std::size_t>(k) - 1]);
  return chosen;
}

// Layers that are surely lower than the k-th lowest stay; the rest come from those that cannot be told from it.
std::vector<int> cheapest_of_equals(const std::vector<int>& ascending, int k, const Importance& importance) {
  if (importance.stability.covariance.empty())
    throw ConfigError(
        "expand.strategy: cost_aware needs to know how certain the scores are, and these do not say; probe again with "
        "at least two sequences of each source.");
  const int threshold = ascending[static_cast<std::size_t>(k) - 1];
  std::vector<int> chosen, equal;
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    const int layer = ascending[i];
    const bool apart = layer != threshold && are_apart(importance, layer, threshold);
    if (!apart) equal.push_back(layer);
    if (apart && i < static_cast<std::size_t>(k)) chosen.push_back(layer);
  }
  std::sort(equal.rbegin(), equal.rend());
  equal.resize(static_cast<std::size_t>(k) - chosen.size());
  chosen.insert(chosen.end(), equal.begin(), equal.end());
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<int> repeated(const std::vector<int>& layers, std::int64_t copies) {
  std::vector<int> after;
  for (const int layer : layers) after.insert(after.end(), static_cast<std::size_t>(copies), layer);
  return after;
}

// Mostly the lowest copy decides what a step costs: for each lowest layer the best others above it.
std::vector<int> best_gain_per_cost(const std::vector<int>& layers, const SelectionOptions& options,
                                    const Importance& importance, const StepCost& step_cost) {
  if (importance.method != kGainMethod)
    throw ConfigError("expand.strategy: gain_per_cost needs the scores of `adept probe --method {}`, found {}.",
                      kGainMethod, importance.method);
  const auto gain = [&](int l) { return importance.layers[static_cast<std::size_t>(l)].score; };
  const auto num_layers = static_cast<int>(options.num_layers.value());
  const auto k = static_cast<std::size_t>(num_layers);
  std::vector<int> chosen;
  double highest = 0;
  for (std::size_t i = 0; i + k <= layers.size(); ++i) {
    std::vector<int> candidate =
        best(std::vector<int>(layers.begin() + static_cast<std::ptrdiff_t>(i) + 1, layers.end()), num_layers - 1,
             [&](int a, int b) { return gain(a) > gain(b); });
    candidate.insert(candidate.begin(), layers[i]);
    double total = 0;
    for (const int layer : candidate) total += gain(layer);
    const double per_cost = total / step_cost(repeated(candidate, options.copies));
    if (!chosen.empty() && per_cost < highest) continue;
    highest = per_cost;
    chosen = candidate;
  }
  return chosen;
}

std::vector<int> allowed_layers(const SelectionOptions& options, int total) {
  const std::set<std::int64_t> excluded(options.exclude.begin(), options.exclude.end());
  for (const std::int64_t layer : excluded)
    if (layer < 0 || layer >= total)
      throw ConfigError("layers to exclude: found {}, expected indices from 0 to {} (the model has {} layers).", layer,
                        total - 1, total);
  std::vector<int> layers;
  for (int l = 0; l < total; ++l)
    if (!excluded.contains(l)) layers.push_back(l);
  return layers;
}

}  // namespace

bool are_apart(const Importance& importance, int a, int b) {
  const auto i = static_cast<std::size_t>(a), j = static_cast<std::size_t>(b);
  const auto& covariance = importance.stability.covariance;
  const double variance = covariance.at(i).at(i) + covariance.at(j).at(j) - 2 * covariance.at(i).at(j);
  const double difference = importance.layers.at(i).score - importance.layers.at(j).score;
  return std::abs(difference) >
         student_t_975(importance.stability.degrees_of_freedom) * std::sqrt(std::max(variance, 0.0));
}

std::vector<int> select_layers(const SelectionOptions& options, int base_num_hidden_layers,
                               const std::optional<Importance>& importance, const StepCost& step_cost) {
  if (!options.after.empty()) return {options.after.begin(), options.after.end()};
  const std::vector<int> layers = allowed_layers(options, base_num_hidden_layers);
  const auto k = static_cast<int>(options.num_layers.value_or(0));
  const SelectionStrategy strategy = options.strategy.value_or(SelectionStrategy::kLowest);
  if (k < 1 || k > std::ssize(layers))
    throw ConfigError("number of layers to expand: found {}, expected 1 to {} (the layers of the model{}).", k,
                      layers.size(), options.exclude.empty() ? "" : " that are not excluded");
  if (strategy != SelectionStrategy::kUniform && !importance)
    throw ConfigError("layers to expand: found no importance scores; expected those of `adept probe`.");
  if (importance && std::ssize(importance->layers) != base_num_hidden_layers)
    throw ConfigError("layers to expand: the importance scores are of {} layers, the model has {}; probe this model.",
                      importance->layers.size(), base_num_hidden_layers);
  const bool low_is_good = strategy == SelectionStrategy::kLowest || strategy == SelectionStrategy::kCostAware;
  if (importance && importance->method == kGainMethod && low_is_good)
    throw ConfigError(
        "layers to expand: found scores of method {}, of which high ones are good; expected the strategy gain_per_cost "
        "or highest.",
        kGainMethod);
  const auto score = [&](int l) { return importance->layers[static_cast<std::size_t>(l)].score; };
  // Of equal scores the later layer, whose copy is cheaper to train.
  const auto is_lower = [&](int a, int b) { return score(a) != score(b) ? score(a) < score(b) : a > b; };
  std::vector<int> chosen;
  switch (strategy) {
    case SelectionStrategy::kLowest:
      chosen = best(layers, k, is_lower);
      break;
    case SelectionStrategy::kHighest:
      chosen = best(layers, k, [&](int a, int b) { return score(a) != score(b) ? score(a) > score(b) : a > b; });
      break;
    case SelectionStrategy::kUniform:
      chosen = evenly_spread(layers, k);
      break;
    case SelectionStrategy::kGainPerCost:
      chosen = best_gain_per_cost(layers, options, *importance, step_cost);
      break;
    case SelectionStrategy::kCostAware: {
      std::vector<int> ascending = layers;
      std::sort(ascending.begin(), ascending.end(), is_lower);
      chosen = cheapest_of_equals(ascending, k, *importance);
      break;
    }
    case SelectionStrategy::kManual:
      throw ConfigError("layers to expand: the strategy manual needs the layers (expand.after, --after).");
  }
  return repeated(chosen, options.copies);
}

int num_layers_for_budget(const model::ModelConfig& base, double trainable_share, int copies, int num_excluded) {
  const auto all = static_cast<double>(model::num_parameters(base));
  std::int64_t largest = 0;  // of the layers, whichever are chosen
  for (const model::Layer& layer : base.layers) largest = std::max(largest, model::num_parameters(layer));
  const auto share = [&](int k) { return 1 - all / (all + static_cast<double>(k * copies * largest)); };
  if (share(1) > trainable_share)
    throw ConfigError(
        "trainable (expand.trainable, --trainable): found {:.4g} %; expected at least {:.4g} %, which is one layer of "
        "this model copied {}.",
        100 * trainable_share, 100 * share(1), copies == 1 ? "once" : fmt::format("{} times", copies));
  int k = 1;
  while (k < static_cast<int>(base.num_hidden_layers) - num_excluded && share(k + 1) <= trainable_share) ++k;
  return k;
}

}  // namespace adept::method
