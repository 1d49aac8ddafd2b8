#include "adept/train/learning_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "adept/core/progress.h"
#include "adept/method/beyond/unit_rate_options.h"
#include "adept/method/unit_importance.h"
#include "adept/method/unit_rates.h"
#include "adept/train/plan.h"

namespace adept::train {

void LearningRates::plan(std::int64_t total_steps) { schedule_ = make_schedule(config_.train, total_steps); }

method::UnitValues LearningRates::first_weights() const {
  method::UnitValues weights;
  for (const method::Unit& unit : units_) weights[unit.name] = 1.0;
  method::apply_factors(config_.unit_lr.factors, weights);
  return weights;
}

bool LearningRates::is_update_due(const TrainerState& state) const {
  if (!config_.unit_lr.uses_importance()) return false;
  return state.unit_importance.empty() || state.step % config_.unit_lr.update_every == 0;
}

void LearningRates::update(TrainerState& state, const model::FrozenPrefix& model,
                           const std::vector<method::ProbeBatch>& general, dist::ProcessGroup& group) const {
  const method::UnitLrOptions& c = config_.unit_lr;
  Progress progress("importance", std::ssize(general),
                    {.counts = "batches", .source = fmt::format("step {}", state.step), .is_passing = true});
  std::vector<method::Unit> units;
  std::ranges::copy_if(units_, std::back_inserter(units), &method::Unit::is_measured);
  const method::UnitValues measured = method::unit_importance(*expansion_, units, model, general, progress, group);
  progress.finish();
  state.unit_importance = method::smoothed(state.unit_importance, measured, c.ema.value_or(0));
  state.unit_lr_weights = method::unit_lr_weights(c.policy, units, state.unit_importance, c.floor);
  for (const method::Unit& unit : units_) state.unit_lr_weights.try_emplace(unit.name, 1.0);
  method::apply_factors(c.factors, state.unit_lr_weights);
  // Mathematical functions may differ in the last bit between processors.
  const Json of_first = Json::parse(group.broadcast(Json(state.unit_lr_weights).dump()));
  of_first.get_to(state.unit_lr_weights);
}

optim::ParameterRates LearningRates::of_units(const TrainerState& state) const {
  const double rate = at(state.step);
  optim::ParameterRates rates;
  for (const method::Unit& unit : units_)
    rates[unit.parameter].push_back(
        {.dim = unit.dim, .begin = unit.begin, .end = unit.end, .rate = rate * state.unit_lr_weights.at(unit.name)});
  return rates;
}

}  // namespace adept::train
