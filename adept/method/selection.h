// Selects the layers to copy: the k least important (ADEPT, section 3.2), or others.
//
// All strategies are in one table in selection.cpp. To add one, add a row and its function: names in the configuration
// and on the command line, help, and what is probed follow. Those that are ours are in beyond/.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "adept/method/beyond/scores.h"
#include "adept/method/options.h"

namespace adept::method {

/// Cost of a step with copies after these layers, ascending, each layer repeated per copy.
using CopiesCost = std::function<double(std::span<const int> after)>;

/// What a strategy selects from.
struct Candidates {
  std::vector<int> layers;                 ///< ascending, without the excluded ones
  int k = 0;                               ///< layers to select: 1 .. layers.size()
  std::int64_t copies = 1;                 ///< of each of them
  const Importance* importance = nullptr;  ///< of all layers; null for a strategy without scores
  CopiesCost step_cost{};                  ///< may be empty where the strategy does not use it

  double score(int layer) const { return importance->layers[static_cast<std::size_t>(layer)].score; }
};

/// One strategy.
struct SelectionStrategy {
  std::string_view name;     ///< as in the configuration, "lowest"
  std::string_view meaning;  ///< for help
  ScoreUse scores;
  /// Selects k layers, ascending.
  std::vector<int> (*select)(const Candidates& candidates);
  std::string_view importance_method = {};  ///< the only one whose scores it takes; empty: any
};

std::span<const SelectionStrategy> all_selection_strategies();
/// InternalError for an unknown name.
const SelectionStrategy& selection_strategy(std::string_view name);
/// The strategy that takes only the scores of this importance method; null: there is none.
const SelectionStrategy* strategy_for(std::string_view importance_method);

/// Base indices after which copies are inserted, ascending, repeated per copy: num_layers layers by the strategy, or
/// `after`. `importance` is for strategies with scores, `step_cost` for those that weigh the cost of training. Throws
/// ConfigError for a k outside 1 .. L minus the excluded layers, an excluded layer that does not exist, and scores that
/// are missing or do not fit the strategy.
std::vector<int> select_layers(const SelectionOptions& options, int base_num_hidden_layers,
                               const std::optional<Importance>& importance, const CopiesCost& step_cost = {});

/// Whether a's score is lower. Among equal scores the later layer counts as lower: its copy is cheaper to train.
bool is_less_important(const Candidates& candidates, int a, int b);

/// The k best of `layers`, ascending by index; among equals, the first.
std::vector<int> best_layers(std::vector<int> layers, int k, const std::function<bool(int, int)>& is_better);

/// Each layer, repeated `copies` times.
std::vector<int> repeat_layers(const std::vector<int>& layers, std::int64_t copies);

}  // namespace adept::method
