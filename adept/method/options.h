// Options of the method.
//
// The importance methods, the strategies for selecting layers and the policies for learning rates are rows of tables in
// importance.cpp, selection.cpp and unit_rates.cpp. Options hold their names; the functions here say what the
// configuration has to know of them. Those that take a name throw InternalError for an unknown one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace adept::method {

/// Names of the importance methods that require only general text, the default first.
std::vector<std::string> general_importance_methods();
/// For help: "mask_out: loss increase when ..." for each of them.
std::string general_importance_meanings(std::string_view separator);

/// The probe of a run.
struct LayerProbeOptions {
  std::string method = "mask_out";  ///< of general_importance_methods
  std::int64_t max_tokens = 65536;  ///< 0 = all
  bool until_separated = false;     ///< stop earlier once the choice of the lowest layers is certain
  std::int64_t batch_size = 8;      ///< sequences
};

/// The scores by which a strategy selects layers.
enum class ScoreUse { kNone, kLowest, kHighest };

/// Names of the strategies, the default first.
std::vector<std::string> selection_strategies();
std::vector<std::string> selection_strategies(ScoreUse use);
/// For help: "lowest: the lowest scores" for each strategy.
std::string selection_strategy_meanings(std::string_view separator);
ScoreUse score_use(std::string_view strategy);

/// Strategies that follow from other options: the default, LLaMA-Pro's, and the one of SelectionOptions::after.
inline constexpr char kLowestLayers[] = "lowest", kUniformLayers[] = "uniform", kManualLayers[] = "manual";

/// The number of copies, and the layers that get them. Exactly one of num_layers, trainable and after sets the number.
struct SelectionOptions {
  std::optional<std::string> strategy = {};     ///< unset: kLowestLayers, kManualLayers with `after`
  std::optional<std::int64_t> num_layers = {};  ///< k; in the configuration, 4 if none of the three is given
  std::optional<double> trainable = {};         ///< upper limit on the copies' share of all parameters, 0 .. 1
  std::vector<std::int64_t> after = {};         ///< layers, ascending, repeated per copy
  std::int64_t copies = 1;                      ///< copies of each selected layer
  std::vector<std::int64_t> exclude = {};       ///< layers that are never copied

  /// Whether the strategy uses importance scores.
  bool needs_scores() const { return score_use(strategy.value_or(kLowestLayers)) != ScoreUse::kNone; }
};

/// Granularity of units. The default, as in the paper, does not split tensors.
struct UnitGranularity {
  bool by_head = false;             ///< projections to heads by rows, from heads by columns, their biases
  std::int64_t ffn_block_size = 0;  ///< neurons: projections to them by rows, from them by columns; 0: whole
};

/// Names of the policies: how a unit's rate depends on its importance. The default first.
std::vector<std::string> unit_lr_policies();
/// For help: "uniform: 1" for each policy.
std::string unit_lr_policy_meanings(std::string_view separator);
/// Whether the rates of a policy depend on importance, which is then measured.
bool uses_unit_importance(std::string_view policy);
/// UnitLrOptions::ema, if it is not set; and for help, "0.5 with policy: normalized, else 0".
double default_ema(std::string_view policy);
std::string default_ema_text();

/// The policy of methods whose rates do not differ.
inline constexpr char kUniformRates[] = "uniform";

/// A factor on the rate of units.
struct UnitFactor {
  std::string units;  ///< pattern of their names: * and ?
  double factor = 1;
};

/// Options for the learning rates of units. The rate of unit u at step t is base_lr * schedule(t) * w_u.
struct UnitLrOptions : UnitGranularity {
  std::string policy = "reference";  ///< of unit_lr_policies
  double floor = 0.1;                ///< of the policy normalized
  std::optional<double> ema;         ///< set when the configuration is loaded, to default_ema()
  std::vector<UnitFactor> factors;
  std::int64_t update_every = 500;    ///< steps
  std::int64_t probe_tokens = 16384;  ///< of general text, for each update

  bool uses_importance() const { return uses_unit_importance(policy); }
};

}  // namespace adept::method
