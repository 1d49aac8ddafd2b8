#include "adept/method/unit_rates.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "adept/core/error.h"

namespace adept::method {
namespace {

struct Range {
  double low = 0, high = 0;
  // 0 for the largest, 1 for the smallest; `if_flat` if all are equal.
  double distance_to_top(double value, double if_flat) const {
    return high > low ? (high - value) / (high - low) : if_flat;
  }
};

Range range_of(const std::vector<Unit>& units, const UnitValues& importance) {
  Range range{importance.at(units.front().name), importance.at(units.front().name)};
  for (const Unit& unit : units) {
    range.low = std::min(range.low, importance.at(unit.name));
    range.high = std::max(range.high, importance.at(unit.name));
  }
  return range;
}

}  // namespace

// ---- The rate of unit u is base_lr * schedule(step) * w_u.
//   uniform     w_u = 1
//   reference   w_u = 2 (I_max - I_u) / (I_max - I_min), the paper's 2 (1 - I_u) with I in [0, 1] (ADEPT, section 3.3)
//   normalized  w_u = v_u / mean of v over elements, v_u = floor + (1 - floor) (I_max - I_u) / (I_max - I_min); ours,
//               for matrices and for norm gains and biases each by themselves

UnitValues unit_lr_weights(UnitLrPolicy policy, const std::vector<Unit>& units, const UnitValues& importance,
                           double floor) {
  ADEPT_CHECK(!units.empty(), "no units");
  UnitValues weights;
  if (policy == UnitLrPolicy::kUniform) {
    for (const Unit& unit : units) weights[unit.name] = 1.0;
    return weights;
  }
  if (policy == UnitLrPolicy::kReference) {
    const Range range = range_of(units, importance);
    for (const Unit& unit : units) weights[unit.name] = 2.0 * range.distance_to_top(importance.at(unit.name), 0.5);
    return weights;
  }
  for (const bool matrices : {true, false}) {
    std::vector<Unit> group;
    std::copy_if(units.begin(), units.end(), std::back_inserter(group),
                 [&](const Unit& unit) { return unit.is_matrix == matrices; });
    if (group.empty()) continue;
    const Range range = range_of(group, importance);
    double sum = 0, elements = 0;
    for (const Unit& unit : group) {
      const double value = floor + (1 - floor) * range.distance_to_top(importance.at(unit.name), 1.0);
      weights[unit.name] = value;
      sum += value * static_cast<double>(unit.elements);
      elements += static_cast<double>(unit.elements);
    }
    for (const Unit& unit : group) weights[unit.name] *= elements / sum;
  }
  return weights;
}

void apply_factors(std::span<const UnitFactor> factors, UnitValues& weights) {
  for (std::size_t i = 0; i < factors.size(); ++i) {
    bool matched = false;
    for (auto& [name, weight] : weights) {
      if (fnmatch(factors[i].units.c_str(), name.c_str(), 0) != 0) continue;
      weight *= factors[i].factor;
      matched = true;
      if (!std::isfinite(weight))
        throw ConfigError(
            "unit_lr.factors.{}.factor: found {:g}, which makes the rate of {} non-finite; expected a smaller factor.",
            i, factors[i].factor, name);
    }
    if (!matched)
      throw ConfigError(
          "unit_lr.factors.{}.units: found \"{}\", which matches no unit; expected a pattern of unit names such as "
          "{}{}.",
          i, factors[i].units, weights.begin()->first,
          factors[i].units.find('/') == std::string::npos
              ? ""
              : " (only unit_lr.by_head and unit_lr.ffn_block_size split tensors into units)");
  }
  if (!factors.empty() && std::all_of(weights.begin(), weights.end(), [](const auto& u) { return u.second == 0; }))
    throw ConfigError("unit_lr.factors: found 0 for every unit; expected at least one unit to train.");
}

}  // namespace adept::method
