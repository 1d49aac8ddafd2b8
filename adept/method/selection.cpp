#include "adept/method/selection.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>

#include "adept/core/error.h"
#include "adept/method/beyond/cost_aware_selection.h"
#include "adept/method/beyond/first_order_improvement.h"
#include "adept/method/expansion.h"
#include "adept/method/importance.h"

namespace adept::method {
namespace {

// ---- The k layers with the lowest I_l (ADEPT, section 3.2).

std::vector<int> lowest_importance(const Candidates& c) {
  return best_layers(c.layers, c.k, [&](int a, int b) { return is_less_important(c, a, b); });
}

// ---- The k layers with the highest I_l, for ablation.

std::vector<int> highest_importance(const Candidates& c) {
  return best_layers(c.layers, c.k,
                     [&](int a, int b) { return c.score(a) != c.score(b) ? c.score(a) > c.score(b) : a > b; });
}

// ---- The last layer of each of k groups of nearly equal size (LLaMA-Pro, arXiv 2401.02415).

std::vector<int> evenly_spaced(const Candidates& c) {
  std::vector<int> chosen;
  for (int i = 1; i <= c.k; ++i)
    chosen.push_back(c.layers[static_cast<std::size_t>(i) * c.layers.size() / static_cast<std::size_t>(c.k) - 1]);
  return chosen;
}

// ---- Those in SelectionOptions::after, which select_layers() returns as they are.

std::vector<int> listed(const Candidates&) {
  throw ConfigError("layers to expand: the strategy manual requires the layers (expand.after, --after).");
}

constexpr std::array kStrategies = {
    SelectionStrategy{kLowestLayers, "the lowest importance", ScoreUse::kLowest, lowest_importance},
    // Ours.
    SelectionStrategy{"cost_aware",
                      "among layers that the probe cannot tell from the lowest, those closest to the output, which are "
                      "the cheapest to train",
                      ScoreUse::kLowest, closest_to_output},
    SelectionStrategy{kUniformLayers, "evenly spaced", ScoreUse::kNone, evenly_spaced},
    SelectionStrategy{"highest", "the highest importance", ScoreUse::kHighest, highest_importance},
    // Ours.
    SelectionStrategy{
        "gain_per_cost",
        "the highest improvement of domain text (adept probe --method gain; in a run, on the first source "
        "of data.train), relative to the cost of a step",
        ScoreUse::kHighest, best_improvement_per_cost, kFirstOrderImprovement},
    SelectionStrategy{kManualLayers, "the layers in after", ScoreUse::kNone, listed},
};

std::vector<int> allowed_layers(const SelectionOptions& options, int total) {
  const std::set<std::int64_t> excluded(options.exclude.begin(), options.exclude.end());
  for (const std::int64_t layer : excluded) check_layer_index("layers to exclude", layer, total);
  std::vector<int> layers;
  for (int l = 0; l < total; ++l)
    if (!excluded.contains(l)) layers.push_back(l);
  return layers;
}

void check_scores(const SelectionStrategy& strategy, const std::optional<Importance>& importance, int num_layers) {
  if (strategy.scores != ScoreUse::kNone && !importance)
    throw ConfigError("layers to expand: found no importance scores; expected scores of `adept probe`.");
  if (importance && std::ssize(importance->layers) != num_layers)
    throw ConfigError(
        "layers to expand: found importance scores of {} layers, but the model has {}. Run adept probe on this model.",
        importance->layers.size(), num_layers);
  if (!strategy.importance_method.empty() && importance->method != strategy.importance_method)
    throw ConfigError("expand.strategy: {} requires scores of `adept probe --method {}`; found {}.", strategy.name,
                      strategy.importance_method, importance->method);
  const ImportanceMethod* method = importance ? find_importance_method(importance->method) : nullptr;
  if (strategy.scores == ScoreUse::kLowest && method != nullptr && method->highest_are_best)
    throw ConfigError(
        "layers to expand: found scores of method {}, for which higher is better; expected the strategy {}.",
        method->name, fmt::join(selection_strategies(ScoreUse::kHighest), " or "));
}

}  // namespace

std::span<const SelectionStrategy> all_selection_strategies() { return kStrategies; }

const SelectionStrategy& selection_strategy(std::string_view name) {
  const auto found =
      std::find_if(kStrategies.begin(), kStrategies.end(), [&](const auto& s) { return s.name == name; });
  ADEPT_CHECK(found != kStrategies.end(), "there is no strategy {}", name);
  return *found;
}

const SelectionStrategy* strategy_for(std::string_view importance_method) {
  for (const SelectionStrategy& strategy : kStrategies)
    if (strategy.importance_method == importance_method) return &strategy;
  return nullptr;
}

std::vector<std::string> selection_strategies() {
  std::vector<std::string> names;
  for (const SelectionStrategy& strategy : kStrategies) names.emplace_back(strategy.name);
  return names;
}

std::vector<std::string> selection_strategies(ScoreUse use) {
  std::vector<std::string> names;
  for (const SelectionStrategy& strategy : kStrategies)
    if (strategy.scores == use) names.emplace_back(strategy.name);
  return names;
}

std::string selection_strategy_meanings(std::string_view separator) {
  std::string text;
  for (const SelectionStrategy& strategy : kStrategies)
    text += fmt::format("{}{}: {}", text.empty() ? "" : separator, strategy.name, strategy.meaning);
  return text;
}

ScoreUse score_use(std::string_view strategy) { return selection_strategy(strategy).scores; }

bool is_less_important(const Candidates& c, int a, int b) {
  return c.score(a) != c.score(b) ? c.score(a) < c.score(b) : a > b;
}

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
  const SelectionStrategy& strategy = selection_strategy(options.strategy.value_or(kLowestLayers));
  Candidates candidates = {.layers = allowed_layers(options, base_num_hidden_layers),
                           .k = static_cast<int>(options.num_layers.value_or(0)),
                           .copies = options.copies,
                           .importance = importance ? &*importance : nullptr,
                           .step_cost = step_cost};
  if (candidates.k < 1 || candidates.k > std::ssize(candidates.layers))
    throw ConfigError("number of layers to expand: found {}; expected 1 to {} (the number of layers of the model{}).",
                      candidates.k, candidates.layers.size(), options.exclude.empty() ? "" : " that are not excluded");
  check_scores(strategy, importance, base_num_hidden_layers);
  return repeat_layers(strategy.select(candidates), options.copies);
}

}  // namespace adept::method
