#include "adept/method/beyond/unit_rate_options.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "adept/core/error.h"
#include "adept/method/unit_rates.h"

namespace adept::method {

UnitValues normalized_weights(const std::vector<Unit>& units, const UnitValues& importance, double floor) {
  UnitValues weights;
  for (const bool matrices : {true, false}) {
    std::vector<Unit> group;
    std::copy_if(units.begin(), units.end(), std::back_inserter(group),
                 [&](const Unit& unit) { return unit.is_matrix == matrices; });
    if (group.empty()) continue;
    const UnitValues distances = distance_to_top(group, importance, 1.0);
    double sum = 0, elements = 0;
    for (const Unit& unit : group) {
      const double value = floor + (1 - floor) * distances.at(unit.name);
      weights[unit.name] = value;
      sum += value * static_cast<double>(unit.elements);
      elements += static_cast<double>(unit.elements);
    }
    for (const Unit& unit : group) weights[unit.name] *= elements / sum;
  }
  return weights;
}

UnitValues smoothed(const UnitValues& before, const UnitValues& now, double keep) {
  UnitValues result = now;
  for (auto& [name, value] : result)
    if (const auto old = before.find(name); old != before.end()) value = keep * old->second + (1 - keep) * value;
  return result;
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
