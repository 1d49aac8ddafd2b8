// Options of the method.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/choices.h"

namespace adept::method {

/// Names of the importance methods that require only general text (table in importance.cpp), the default first.
std::vector<std::string> general_importance_methods();

/// The probe of a run.
struct LayerProbeOptions {
  std::string method = "mask_out";  ///< of general_importance_methods
  std::int64_t max_tokens = 65536;  ///< 0 = all
  bool until_separated = false;     ///< stop earlier once the choice of the lowest layers is certain
  std::int64_t batch_size = 8;      ///< sequences
};

/// Strategy for selecting layers.
enum class SelectionStrategy {
  kLowest,       ///< the k lowest scores: the paper's choice
  kCostAware,    ///< of layers that the probe cannot tell apart, those closest to the output: the cheapest to train
  kUniform,      ///< evenly spaced, after the last layer of each of k groups: LLaMA-Pro, arXiv 2401.02415
  kHighest,      ///< the k highest scores, for ablation
  kGainPerCost,  ///< the k with the highest improvement relative to the cost of a step; ours, not the paper's
  kManual,       ///< the layers in SelectionOptions::after
};

/// The number of copies, and the layers that get them. Exactly one of num_layers, trainable and after sets the number.
struct SelectionOptions {
  std::optional<SelectionStrategy> strategy = {};  ///< unset: kLowest, kManual with `after`
  std::optional<std::int64_t> num_layers = {};     ///< k; in the configuration, 4 if none of the three is given
  std::optional<double> trainable = {};            ///< upper limit on the copies' share of all parameters, 0 .. 1
  std::vector<std::int64_t> after = {};            ///< layers, ascending, repeated per copy
  std::int64_t copies = 1;                         ///< copies of each selected layer
  std::vector<std::int64_t> exclude = {};          ///< layers that are never copied

  /// Whether the strategy uses importance scores.
  bool needs_scores() const {
    return strategy != SelectionStrategy::kManual && strategy != SelectionStrategy::kUniform;
  }
};

/// Granularity of units. The default, as in the paper, does not split tensors.
struct UnitGranularity {
  bool by_head = false;             ///< projections to heads by rows, from heads by columns, their biases
  std::int64_t ffn_block_size = 0;  ///< neurons: projections to them by rows, from them by columns; 0: whole
};

/// How a unit's rate depends on its importance. The rate of unit u at step t is base_lr * schedule(t) * w_u.
enum class UnitLrPolicy {
  /// w_u = 2 (I_max - I_u) / (I_max - I_min), 1 if the range is 0; the paper's 2 (1 - I_u) with I in [0, 1].
  kReference,
  /// w_u = 1: plain AdamW on the expanded layers.
  kUniform,
  /// Ours. Norm gains and biases, whose |theta g| is larger by their theta alone, form a group separate from matrices.
  /// In each group, v_u = floor + (1 - floor) (I_max - I_u) / (I_max - I_min), 1 if the range is 0, and w_u is v_u
  /// divided by its mean over the group's elements: every unit trains, and the mean rate is base_lr.
  kNormalized,
};

/// A factor on the rate of units.
struct UnitFactor {
  std::string units;  ///< pattern of their names: * and ?
  double factor = 1;
};

/// Options for the learning rates of units.
struct UnitLrOptions : UnitGranularity {
  UnitLrPolicy policy = UnitLrPolicy::kReference;
  double floor = 0.1;         ///< of the policy kNormalized
  std::optional<double> ema;  ///< set when the configuration is loaded: 0.5 for the policy kNormalized, else 0
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
