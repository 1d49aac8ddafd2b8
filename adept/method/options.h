// Choices of the method, as the configuration says them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/choices.h"

namespace adept::method {

/// The names of the importance methods that need general text alone, the default first: those of the table in
/// importance.cpp.
std::vector<std::string> general_importance_methods();

/// The probe of a run.
struct LayerProbeOptions {
  std::string method = "mask_out";  ///< of general_importance_methods
  std::int64_t max_tokens = 65536;  ///< 0 = all
  bool until_separated = false;     ///< stop before as soon as the choice of the lowest layers is certain
  std::int64_t batch_size = 8;      ///< sequences
};

/// How layers are chosen.
enum class SelectionStrategy {
  kLowest,       ///< the k lowest scores: the paper's choice
  kCostAware,    ///< of layers that the probe cannot tell apart, the highest, which are the cheapest to train
  kUniform,      ///< evenly spread, behind the last layer of each of k groups: LLaMA-Pro, arXiv 2401.02415
  kHighest,      ///< the k highest scores: for ablation
  kGainPerCost,  ///< the k whose copies gain most in the domain for what a step costs; ours, not the paper's
  kManual,       ///< by hand: those of SelectionOptions::after
};

/// How many copies, and which layers get them. Exactly one of num_layers, trainable and after says how many.
struct SelectionOptions {
  std::optional<SelectionStrategy> strategy = {};  ///< unset: kLowest, kManual with `after`
  std::optional<std::int64_t> num_layers = {};     ///< k; of the configuration: 4 if none of the three is given
  std::optional<double> trainable = {};            ///< the largest share of all parameters for the copies, 0 .. 1
  std::vector<std::int64_t> after = {};            ///< layers, ascending, each as often as it gets a copy
  std::int64_t copies = 1;                         ///< of each chosen layer, one behind the other
  std::vector<std::int64_t> exclude = {};          ///< layers that get no copy

  /// Whether the choice goes by importance scores.
  bool needs_scores() const {
    return strategy != SelectionStrategy::kManual && strategy != SelectionStrategy::kUniform;
  }
};

/// How finely tensors are split. The default is the paper's: not at all.
struct UnitGranularity {
  bool by_head = false;             ///< projections to heads by rows, from heads by columns, their biases
  std::int64_t ffn_block_size = 0;  ///< neurons: projections to them by rows, from them by columns; 0: whole
};

/// How a unit's rate follows from its importance. The rate of unit u at step t is base_lr * schedule(t) * w_u.
enum class UnitLrPolicy {
  /// w_u = 2 (I_max - I_u) / (I_max - I_min), 1 where the range is 0; the paper's 2 (1 - I_u) with I in [0, 1].
  kReference,
  /// w_u = 1: plain AdamW on the expanded layers.
  kUniform,
  /// Ours. Norm gains and biases, whose |theta g| is larger by their theta alone, are ranged apart from matrices: in
  /// each
  /// of the two groups v_u = floor + (1 - floor) (I_max - I_u) / (I_max - I_min), 1 where the range is 0, and w_u is
  /// v_u
  /// divided by its mean over the group's elements: no unit stands still, and the mean rate is base_lr.
  kNormalized,
};

/// Units whose rate is multiplied.
struct UnitFactor {
  std::string units;  ///< pattern of their names: * and ?
  double factor = 1;
};

/// The learning rates of units.
struct UnitLrOptions : UnitGranularity {
  UnitLrPolicy policy = UnitLrPolicy::kReference;
  double floor = 0.1;         ///< of the policy kNormalized
  std::optional<double> ema;  ///< of the configuration, after loading: 0.5 for the policy kNormalized, else 0
  std::vector<UnitFactor> factors;
  std::int64_t update_every = 500;    ///< steps
  std::int64_t probe_tokens = 16384;  ///< of general text, for each update
};

}  // namespace adept::method

namespace adept {

template <>
inline constexpr std::array kChoices<method::SelectionStrategy> = {
    Choice{method::SelectionStrategy::kLowest, "lowest"},
    Choice{method::SelectionStrategy::kCostAware, "cost_aware"},
    Choice{method::SelectionStrategy::kUniform, "uniform"},
    Choice{method::SelectionStrategy::kHighest, "highest"},
    Choice{method::SelectionStrategy::kGainPerCost, "gain_per_cost"},
    Choice{method::SelectionStrategy::kManual, "manual"}};
template <>
inline constexpr std::array kChoices<method::UnitLrPolicy> = {Choice{method::UnitLrPolicy::kReference, "reference"},
                                                              Choice{method::UnitLrPolicy::kUniform, "uniform"},
                                                              Choice{method::UnitLrPolicy::kNormalized, "normalized"}};

}  // namespace adept
