#include "adept/method/units.h"

#include <set>

#include "adept/core/error.h"
#include "adept/method/beyond/unit_parts.h"

namespace adept::method {

// ---- A unit is one named tensor of an expanded layer (ADEPT, section 3.3), unless the options split it into parts.

std::vector<Unit> units_of(const model::Parameter& p, const UnitGranularity& granularity) {
  const Unit whole = {
      .name = p.name, .parameter = p.name, .end = p.shape.front(), .elements = p.numel(), .is_matrix = p.is_matrix()};
  const std::int64_t split = slices_per_unit(p, granularity);
  return split == 0 ? std::vector{whole} : parts_of(whole, p, split);
}

std::vector<Unit> make_units(const Expansion& expansion, const model::Decoder& decoder,
                             const UnitGranularity& granularity) {
  const model::ModelConfig& config = decoder.config();
  if (granularity.ffn_block_size > config.intermediate_size)
    throw ConfigError("unit_lr.ffn_block_size: found {}; expected at most {}, the model's intermediate_size.",
                      granularity.ffn_block_size, config.intermediate_size);
  std::vector<Unit> units;
  model::Weights weights = decoder.weights();
  for (const ExpandedLayer& copy : expansion.layers)
    for (const model::Parameter& p : model::layer_parameters(weights, copy.index))
      for (Unit& unit : units_of(p, granularity)) units.push_back(std::move(unit));
  check_partition(units, decoder);
  return units;
}

void check_partition(const std::vector<Unit>& units, const model::Decoder& decoder) {
  std::map<std::string, std::vector<const Unit*>> of_parameter;
  std::set<std::string> names;
  for (const Unit& unit : units) {
    ADEPT_CHECK(names.insert(unit.name).second, "two units are called {}", unit.name);
    of_parameter[unit.parameter].push_back(&unit);
  }
  model::Weights weights = decoder.weights();
  for (const model::Parameter& p : model::named_parameters(decoder.config(), weights)) {
    const auto found = of_parameter.find(p.name);
    if (found == of_parameter.end()) continue;
    std::int64_t next = 0;
    for (const Unit* unit : found->second) {
      ADEPT_CHECK(unit->dim == found->second.front()->dim && unit->begin == next && unit->end > next,
                  "{} does not follow the unit before it", unit->name);
      next = unit->end;
    }
    ADEPT_CHECK(next == p.tensor->size(found->second.front()->dim), "the units of {} do not cover it", p.name);
    of_parameter.erase(found);
  }
  ADEPT_CHECK(of_parameter.empty(), "{} units are no tensors of the model", of_parameter.size());
}

}  // namespace adept::method
