// The learning rate of every unit at every step: peak * schedule(step) * w_u.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/dist/process_group.h"
#include "adept/method/beyond/source_mean.h"
#include "adept/method/expansion.h"
#include "adept/method/units.h"
#include "adept/model/frozen_prefix.h"
#include "adept/optim/adamw.h"
#include "adept/optim/schedule.h"
#include "adept/train/checkpoint.h"

namespace adept::train {

class LearningRates {
 public:
  /// `config` and `expansion` must outlive it. `units` partition what trains.
  LearningRates(const config::RunConfig& config, const std::optional<method::Expansion>& expansion,
                std::vector<method::Unit> units)
      : config_(config), expansion_(expansion), units_(std::move(units)) {}

  /// Sets the length of the schedule, in steps.
  void plan(std::int64_t total_steps);

  /// w_u before the first update: 1 times unit_lr.factors. Throws like apply_factors.
  method::UnitValues first_weights() const;

  /// Whether an update of w_u is due after this step.
  bool is_update_due(const TrainerState& state) const;
  /// Measures importance on general text, which the processes of `group` divide, and sets unit_importance and
  /// unit_lr_weights of `state`, the same on each. Throws NonFiniteError.
  void update(TrainerState& state, const model::FrozenPrefix& model, const std::vector<method::ProbeBatch>& general,
              dist::ProcessGroup& group = dist::world()) const;

  /// peak * schedule(step), for the step after `step` completed ones.
  double at(std::int64_t step) const { return config_.train.learning_rate * schedule_.factor(step); }
  optim::ParameterRates of_units(const TrainerState& state) const;

 private:
  const config::RunConfig& config_;
  const std::optional<method::Expansion>& expansion_;
  std::vector<method::Unit> units_;
  optim::Schedule schedule_;
};

}  // namespace adept::train
