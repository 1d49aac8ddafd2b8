// What the options unit_lr add to the paper's learning rates: the policy normalized, the moving average of importance
// (ema), and factors by name.
#pragma once

#include <span>
#include <vector>

#include "adept/method/units.h"

namespace adept::method {

inline constexpr char kNormalizedFormula[] =
    "floor + (1 - floor) (I_max - I) / (I_max - I_min), divided by its mean over elements, with norm gains and biases "
    "in one group and matrices in another";

/// w_u of the policy normalized, with floor 0 .. 1. Norm gains and biases, whose |theta g| is larger by their theta
/// alone, form a group separate from matrices. In each group, w_u = v_u / mean of v over elements, with
/// v_u = floor + (1 - floor) (I_max - I_u) / (I_max - I_min), 1 where all are equal: every unit trains, and the mean
/// rate is base_lr.
UnitValues normalized_weights(const std::vector<Unit>& units, const UnitValues& importance, double floor);

/// Exponential moving average of importance over updates: keep * before + (1 - keep) * now; `now` if there is no
/// `before`.
UnitValues smoothed(const UnitValues& before, const UnitValues& now, double keep);

/// Multiplies the weights of units by unit_lr.factors. Throws ConfigError for a pattern that matches no unit, for
/// factors that leave nothing to train, and for a product that is not finite.
void apply_factors(std::span<const UnitFactor> factors, UnitValues& weights);

}  // namespace adept::method
