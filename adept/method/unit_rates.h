// The learning rate of each unit (ADEPT, section 3.3): base_lr * schedule(step) * w_u, lower for units that are more
// important for general skill.
#pragma once

#include <span>
#include <vector>

#include "adept/method/units.h"

namespace adept::method {

/// w_u of every unit. kNormalized uses `floor` (0 .. 1).
UnitValues unit_lr_weights(UnitLrPolicy policy, const std::vector<Unit>& units, const UnitValues& importance,
                           double floor = 0);

/// Ours: multiplies the weights of units by unit_lr.factors. Throws ConfigError for a pattern that matches no unit, for
/// factors that leave nothing to train, and for a product that is not finite.
void apply_factors(std::span<const UnitFactor> factors, UnitValues& weights);

}  // namespace adept::method
