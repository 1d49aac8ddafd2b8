#include "adept/method/units.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sum.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/method/layer_gradients.h"

namespace adept::method {
namespace {

bool is_identity(model::Weights& weights, int layer) {
  const std::vector<model::Parameter> outputs = model::residual_outputs(weights, layer);
  return std::none_of(outputs.begin(), outputs.end(),
                      [](const model::Parameter& p) { return p.tensor->detach().ne(-p.offset).any().item<bool>(); });
}

// Sums of |theta g| over everything but `dim`: products in fp32, sums in fp64.
at::Tensor sums_along(std::int64_t dim, const model::Parameter& p, const at::Tensor& gradient) {
  const at::Tensor products = first_order_terms(p, gradient);
  if (products.dim() == 1) return products.to(at::kDouble).cpu();
  return products.sum({1 - dim}, /*keepdim=*/false, at::kDouble).cpu();
}

struct Range {
  double low = 0, high = 0;
  // 0 at the top, 1 at the bottom; `if_flat` where there is no range.
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

UnitValues unit_importance(const Expansion& expansion, const std::vector<Unit>& units, const model::FrozenPrefix& model,
                           const std::vector<ProbeBatch>& batches, Progress& progress) {
  std::map<std::string, std::vector<const Unit*>> parts_of;  // by parameter
  for (const Unit& unit : units) parts_of[unit.parameter].push_back(&unit);
  // The copies that each scored layer stands for: itself, or those that are still the identity, of which it is the
  // source.
  std::map<int, std::vector<int>> copies_of_scored;
  model::Weights weights = model.decoder().weights();
  for (const ExpandedLayer& copy : expansion.layers) {
    const bool identity = is_identity(weights, copy.index);
    copies_of_scored[identity ? expanded_index(copy.source, expansion.layers) : copy.index].push_back(copy.index);
  }
  std::vector<int> scored;
  for (const auto& [layer, copies] : copies_of_scored) scored.push_back(layer);

  std::map<int, UnitValues> totals;  // by source
  std::map<int, double> tokens;
  std::int64_t done = 0, positions = 0;
  for (const auto& [batch, source, weight] : batches) {
    throw_if_interrupted();
    if (batch.num_targets == 0) continue;
    const auto n = static_cast<double>(batch.num_targets);
    UnitValues& total = totals[source];
    visit_layer_gradients(model, batch, scored, [&](const LayerGradients& g) {
      for (std::size_t i = 0; i < g.parameters.size(); ++i) {
        const model::Parameter& p = g.parameters[i];
        const auto& parts =
            parts_of.at(model::layer_parameter_name(copies_of_scored.at(g.layer).front(), p.local_name));
        const at::Tensor sums = sums_along(parts.front()->dim, p, g.gradients[i]);
        for (std::size_t part = 0; part < parts.size(); ++part) {
          const Unit& unit = *parts[part];
          const double score =
              n * sums.slice(0, unit.begin, unit.end).sum().item<double>() / static_cast<double>(unit.elements);
          for (const int copy : copies_of_scored.at(g.layer))
            total[parts_of.at(model::layer_parameter_name(copy, p.local_name))[part]->name] += score;
        }
      }
    });
    tokens[source] += n;
    progress.update(++done, positions += batch.num_positions());
  }
  if (tokens.empty())
    throw DataError("data.general: found no token to predict; expected documents of at least two tokens.");
  UnitValues importance;
  const std::map<int, double> shares = source_shares(batches);
  for (const auto& [source, total] : totals)
    for (const auto& [name, value] : total) importance[name] += shares.at(source) * value / tokens.at(source);
  for (const auto& [name, value] : importance)
    if (!std::isfinite(value))
      throw NonFiniteError(
          fmt::format("unit importance of {} is not finite; look at the general text and the model's weights.", name));
  ADEPT_CHECK(importance.size() == units.size(), "units and scores differ in number");
  return importance;
}

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

UnitValues smoothed(const UnitValues& before, const UnitValues& now, double keep) {
  UnitValues result = now;
  for (auto& [name, value] : result)
    if (const auto old = before.find(name); old != before.end()) value = keep * old->second + (1 - keep) * value;
  return result;
}

}  // namespace adept::method
