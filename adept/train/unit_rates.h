// The units of a training, and what the configuration makes of their importance.
#pragma once

#include <optional>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/method/units.h"
#include "adept/train/trainable.h"

namespace adept::train {

/// The units of the copies; of other methods every trained parameter is one.
std::vector<method::Unit> training_units(const config::RunConfig& config,
                                         const std::optional<method::Expansion>& expansion,
                                         const model::Decoder& decoder, const Trainable& trainable);

/// Multiplies the weights of units by unit_lr.factors. Throws ConfigError for a pattern that matches no unit, for
/// factors that leave nothing to train, and for a product that is not finite.
void apply_factors(const std::vector<method::UnitFactor>& factors, method::UnitValues& weights);

}  // namespace adept::train
