#include "adept/train/unit_rates.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>

#include "adept/core/error.h"

namespace adept::train {

std::vector<method::Unit> training_units(const config::RunConfig& c, const std::optional<method::Expansion>& expansion,
                                         const model::Decoder& decoder, const Trainable& trainable) {
  if (expansion) return method::make_units(*expansion, decoder, c.unit_lr);
  std::vector<method::Unit> units;
  for (const optim::Parameter& p : trainable.parameters())
    units.push_back({.name = p.name,
                     .parameter = p.name,
                     .dim = 0,
                     .begin = 0,
                     .end = p.master.size(0),
                     .elements = p.master.numel(),
                     .is_matrix = p.master.dim() > 1});
  return units;
}

void apply_factors(const std::vector<method::UnitFactor>& factors, method::UnitValues& weights) {
  for (std::size_t i = 0; i < factors.size(); ++i) {
    bool matched = false;
    for (auto& [name, weight] : weights) {
      if (fnmatch(factors[i].units.c_str(), name.c_str(), 0) != 0) continue;
      weight *= factors[i].factor;
      matched = true;
      if (!std::isfinite(weight))
        throw ConfigError("unit_lr.factors.{}.factor: found {:g}; the rate of {} is not finite with it.", i,
                          factors[i].factor, name);
    }
    if (!matched)
      throw ConfigError(
          "unit_lr.factors.{}.units: found \"{}\", which is no unit's name; expected a pattern of names such as {}.", i,
          factors[i].units, weights.begin()->first);
  }
  if (std::all_of(weights.begin(), weights.end(), [](const auto& unit) { return unit.second == 0; }))
    throw ConfigError("unit_lr.factors: found 0 for every unit; nothing would train.");
}

}  // namespace adept::train
