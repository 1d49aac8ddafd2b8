#include "adept/method/selection.h"

#include <algorithm>
#include <set>

#include "adept/core/error.h"
#include "adept/method/expansion.h"
#include "adept/method/importance.h"

namespace adept::method {
namespace {

// The last layer of each of k groups of nearly equal size.
std::vector<int> evenly_spread(const std::vector<int>& layers, int k) {
  std::vector<int> chosen;
  for (int i = 1; i <= k; ++i)
    chosen.push_back(layers[static_cast<std::size_t>(i) * layers.size() / static_cast<std::size_t>(k) - 1]);
  return chosen;
}

std::vector<int> allowed_layers(const SelectionOptions& options, int total) {
  const std::set<std::int64_t> excluded(options.exclude.begin(), options.exclude.end());
  for (const std::int64_t layer : excluded) check_layer_index("layers to exclude", layer, total);
  std::vector<int> layers;
  for (int l = 0; l < total; ++l)
    if (!excluded.contains(l)) layers.push_back(l);
  return layers;
}

}  // namespace

std::vector<int> best_layers(std::vector<int> layers, int k, const std::function<bool(int, int)>& is_better) {
  std::stable_sort(layers.begin(), layers.end(), is_better);
  layers.resize(static_cast<std::size_t>(k));
  std::sort(layers.begin(), layers.end());
  return layers;
}

std::vector<int> repeat_layers(const std::vector<int>& layers, std::int64_t copies) {
  std::vector<int> after;
  for (const int layer : layers) after.insert(after.end(), static_cast<std::size_t>(copies), layer);
  return after;
}

std::vector<int> select_layers(const SelectionOptions& options, int base_num_hidden_layers,
                               const std::optional<Importance>& importance, const CopiesCost& step_cost) {
  if (!options.after.empty()) return {options.after.begin(), options.after.end()};
  const std::vector<int> layers = allowed_layers(options, base_num_hidden_layers);
  const auto k = static_cast<int>(options.num_layers.value_or(0));
  const SelectionStrategy strategy = options.strategy.value_or(SelectionStrategy::kLowest);
  if (k < 1 || k > std::ssize(layers))
    throw ConfigError("number of layers to expand: found {}; expected 1 to {} (the number of layers of the model{}).",
                      k, layers.size(), options.exclude.empty() ? "" : " that are not excluded");
  if (strategy != SelectionStrategy::kUniform && !importance)
    throw ConfigError("layers to expand: found no importance scores; expected scores of `adept probe`.");
  if (importance && std::ssize(importance->layers) != base_num_hidden_layers)
    throw ConfigError(
        "layers to expand: found importance scores of {} layers, but the model has {}. Run adept probe on this model.",
        importance->layers.size(), base_num_hidden_layers);
  const bool low_is_good = strategy == SelectionStrategy::kLowest || strategy == SelectionStrategy::kCostAware;
  const ImportanceMethod* method = importance ? find_importance_method(importance->method) : nullptr;
  if (low_is_good && method != nullptr && method->highest_are_best)
    throw ConfigError(
        "layers to expand: found scores of method {}, for which higher is better; expected the strategy gain_per_cost "
        "or highest.",
        method->name);
  const auto score = [&](int l) { return importance->layers[static_cast<std::size_t>(l)].score; };
  // Among equal scores, prefers the later layer, whose copy is cheaper to train.
  const auto is_lower = [&](int a, int b) { return score(a) != score(b) ? score(a) < score(b) : a > b; };
  std::vector<int> chosen;
  switch (strategy) {
    case SelectionStrategy::kLowest:
      chosen = best_layers(layers, k, is_lower);
      break;
    case SelectionStrategy::kHighest:
      chosen = best_layers(layers, k, [&](int a, int b) { return score(a) != score(b) ? score(a) > score(b) : a > b; });
      break;
    case SelectionStrategy::kUniform:
      chosen = evenly_spread(layers, k);
      break;
    case SelectionStrategy::kGainPerCost:
      chosen = best_gain_per_cost(layers, k, options.copies, *importance, step_cost);
      break;
    case SelectionStrategy::kCostAware: {
      std::vector<int> ascending = layers;
      std::sort(ascending.begin(), ascending.end(), is_lower);
      chosen = cheapest_of_equals(ascending, k, *importance);
      break;
    }
    case SelectionStrategy::kManual:
      throw ConfigError("layers to expand: the strategy manual requires the layers (expand.after, --after).");
  }
  return repeat_layers(chosen, options.copies);
}

}  // namespace adept::method
