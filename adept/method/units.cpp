#include "adept/method/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "adept/core/error.h"

namespace adept::method {

std::vector<Unit> units_of(const model::Parameter& p, const UnitGranularity& granularity) {
  const model::Slices& slices = p.slices;
  std::int64_t step = 0;  // slices of a unit; 0: all are one
  if (slices.axis == model::Axis::kHead && granularity.by_head) step = slices.size;
  if (slices.axis == model::Axis::kNeuron) step = granularity.ffn_block_size * slices.size;
  const std::int64_t size = p.shape[static_cast<std::size_t>(step == 0 ? 0 : slices.dim)];
  const std::int64_t others = p.numel() / size;
  Unit unit{.name = p.name, .parameter = p.name, .end = size, .elements = p.numel(), .is_matrix = p.is_matrix()};
  if (step == 0) return {unit};
  std::vector<Unit> units;
  std::int64_t section_begin = 0;
  for (const std::int64_t section : slices.sections.empty() ? std::vector{size} : slices.sections) {
    for (std::int64_t begin = section_begin; begin < section_begin + section; begin += step) {
      unit.name = fmt::format("{}/{}.{}", p.name, slices.axis == model::Axis::kHead ? "head" : "block", units.size());
      unit.dim = slices.dim;
      unit.begin = begin;
      unit.end = std::min(begin + step, section_begin + section);
      unit.elements = (unit.end - unit.begin) * others;
      units.push_back(unit);
    }
    section_begin += section;
  }
  return units;
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
