// Which layers get copies (ADEPT, section 3.2, and alternatives).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "adept/method/importance.h"
#include "adept/model/config.h"

namespace adept::method {

/// How layers are chosen.
enum class SelectionStrategy {
  kLowest,       ///< the k lowest scores: the paper's choice
  kCostAware,    ///< of layers that the probe cannot tell apart, the highest, which are the cheapest to train
  kUniform,      ///< evenly spread, behind the last layer of each of k groups: LLaMA-Pro, arXiv 2401.02415
  kHighest,      ///< the k highest scores: for ablation
  kGainPerCost,  ///< the k whose gain in the domain is highest for what a step costs (gain.h); ours, not the paper's
};

/// How many copies, and which layers may have them.
struct SelectionOptions {
  SelectionStrategy strategy = SelectionStrategy::kLowest;
  int num_layers = 4;             ///< k
  std::vector<int> exclude = {};  ///< layers that get no copy
  int copies = 1;                 ///< of each chosen layer, one behind the other
  /// For kGainPerCost: what a step costs with copies behind these layers, ascending, a layer once for each copy.
  std::function<double(std::span<const int> after)> step_cost = {};
};

/// Base indices behind which copies go, ascending, each as often as it gets a copy. `importance` is for strategies that
/// go by scores; kCostAware needs its stability too. Throws ConfigError for a k that is not in 1 .. L less the excluded
/// layers, an excluded layer that does not exist, and missing scores.
std::vector<int> select_layers(const SelectionOptions& options, int base_num_hidden_layers,
                               const std::optional<Importance>& importance);

/// Whether two scores differ beyond doubt: the 95 % interval of their difference, from the resamples' covariance and
/// Student's t, leaves out 0.
bool are_apart(const Importance& importance, int a, int b);

/// The most layers k whose copies are at most this share (0 .. 1) of the expanded model's parameters. Throws
/// ConfigError if a single one is more.
int num_layers_for_budget(const model::ModelConfig& base, double trainable_share, int copies, int num_excluded);

}  // namespace adept::method
