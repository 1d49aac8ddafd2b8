#include "adept/method/unit_importance.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sum.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "adept/core/error.h"
#include "adept/dist/division.h"
#include "adept/method/importance.h"
#include "adept/model/layer_gradients.h"
#include "adept/nn/stored.h"

namespace adept::method {
namespace {

bool is_identity(model::Weights& weights, int layer) {
  const std::vector<model::Parameter> outputs = model::residual_outputs(weights, layer);
  return std::none_of(outputs.begin(), outputs.end(),
                      [](const model::Parameter& p) { return nn::has_effect(*p.tensor, p.offset); });
}

// Sums of |theta g| over everything but `dim`: products in fp32, sums in fp64.
at::Tensor sums_along(std::int64_t dim, const model::Parameter& p, const at::Tensor& gradient) {
  const at::Tensor products = first_order_terms(p, gradient);
  if (products.dim() == 1) return products.to(at::kDouble).cpu();
  return products.sum({1 - dim}, /*keepdim=*/false, at::kDouble).cpu();
}

// The layers whose gradients give the scores of units.
class ScoredUnits {
 public:
  ScoredUnits(const Expansion& expansion, const std::vector<Unit>& units, const model::Decoder& decoder) {
    for (const Unit& unit : units) by_parameter_[unit.parameter].push_back(&unit);
    model::Weights weights = decoder.weights();
    for (const ExpandedLayer& copy : expansion.layers) {
      const bool identity = is_identity(weights, copy.index);
      copies_of_[identity ? expanded_index(copy.source, expansion.layers) : copy.index].push_back(copy.index);
    }
    for (const auto& [layer, copies] : copies_of_) {
      layers_.push_back(layer);
      for (const model::Parameter& p : model::layer_parameters(weights, layer))
        parts_.push_back({.layer = layer, .parameter = p.local_name});
    }
  }

  // Sums of |theta g| over each unit of each part in turn, for the gradient of the batch's mean loss.
  dist::Numbers measure(const model::FrozenPrefix& model, const model::Batch& batch) const {
    std::map<std::pair<int, std::string>, dist::Numbers> sums;
    model::visit_layer_gradients(model, batch, layers_, [&](const model::LayerGradients& g) {
      for (std::size_t i = 0; i < g.parameters.size(); ++i) {
        const model::Parameter& p = g.parameters[i];
        const auto& of_parameter = units_of(copies_of_.at(g.layer).front(), p.local_name);
        const at::Tensor along = sums_along(of_parameter.front()->dim, p, g.gradients[i]);
        for (const Unit* unit : of_parameter)
          sums[{g.layer, p.local_name}].push_back(along.slice(0, unit->begin, unit->end).sum().item<double>());
      }
    });
    dist::Numbers numbers;
    for (const Part& part : parts_) {
      const dist::Numbers& of_part = sums.at({part.layer, part.parameter});
      numbers.insert(numbers.end(), of_part.begin(), of_part.end());
    }
    return numbers;
  }

  void add(const dist::Numbers& sums, double share, UnitValues& importance) const {
    std::size_t next = 0;
    for (const Part& part : parts_) {
      const std::vector<int>& copies = copies_of_.at(part.layer);
      const auto& of_parameter = units_of(copies.front(), part.parameter);
      for (std::size_t u = 0; u < of_parameter.size(); ++u) {
        const double score = share * sums.at(next++) / static_cast<double>(of_parameter[u]->elements);
        for (const int copy : copies) importance[units_of(copy, part.parameter)[u]->name] += score;
      }
    }
  }

 private:
  // A parameter of a scored layer, by its name within the layer.
  struct Part {
    int layer;
    std::string parameter;
  };

  const std::vector<const Unit*>& units_of(int copy, const std::string& parameter) const {
    return by_parameter_.at(model::layer_parameter_name(copy, parameter));
  }

  std::map<std::string, std::vector<const Unit*>> by_parameter_;
  // The copies that each scored layer represents: itself, or its copies that are still identities.
  std::map<int, std::vector<int>> copies_of_;
  std::vector<int> layers_;
  std::vector<Part> parts_;
};

}  // namespace

// ---- I_u = 1 / |u| sum over i in u of |theta_i| sum over batches b of p_b |g_bi|  (ADEPT, section 3.3): g_b the
// gradient of the mean loss of b, p_b its share of the mean, which are 1 together.

UnitValues unit_importance(const Expansion& expansion, const std::vector<Unit>& units, const model::FrozenPrefix& model,
                           const std::vector<ProbeBatch>& batches, Progress& progress, dist::ProcessGroup& group) {
  const ScoredUnits scored(expansion, units, model.decoder());
  const std::vector<double> factors = mean_factors(batches, "data.general");
  std::vector<std::size_t> used;
  for (std::size_t b = 0; b < batches.size(); ++b)
    if (batches[b].batch.num_targets > 0) used.push_back(b);
  UnitValues importance;
  std::int64_t positions = 0;
  const auto measure = [&](std::int64_t item) {
    return scored.measure(model, batches[used[static_cast<std::size_t>(item)]].batch);
  };
  const auto add = [&](std::int64_t item, const dist::Numbers& sums) {
    const std::size_t b = used[static_cast<std::size_t>(item)];
    const model::Batch& batch = batches[b].batch;
    scored.add(sums, /*share=*/factors[b] * static_cast<double>(batch.num_targets), importance);
    progress.update(item + 1, positions += batch.num_positions());
  };
  dist::divide(group, std::ssize(used), measure, add, /*in_step=*/model.decoder().is_shared());
  for (const auto& [name, value] : importance)
    if (!std::isfinite(value))
      throw NonFiniteError(
          fmt::format("unit importance of {} is not finite; check the general text and the model's weights.", name));
  ADEPT_CHECK(importance.size() == units.size(), "units and scores differ in number");
  return importance;
}

}  // namespace adept::method
