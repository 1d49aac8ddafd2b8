#include "adept/method/unit_importance.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sum.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "adept/core/error.h"
#include "adept/core/signals.h"
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

}  // namespace

// ---- I_u = 1 / |u| sum over i in u of |theta_i| sum over batches b of p_b |g_bi|  (ADEPT, section 3.3): g_b the
// gradient of the mean loss of b, p_b its share of the mean, which are 1 together.

UnitValues unit_importance(const Expansion& expansion, const std::vector<Unit>& units, const model::FrozenPrefix& model,
                           const std::vector<ProbeBatch>& batches, Progress& progress) {
  std::map<std::string, std::vector<const Unit*>> by_parameter;  // by parameter
  for (const Unit& unit : units) by_parameter[unit.parameter].push_back(&unit);
  // The copies that each scored layer represents: itself, or its copies that are still identities.
  std::map<int, std::vector<int>> copies_of_scored;
  model::Weights weights = model.decoder().weights();
  for (const ExpandedLayer& copy : expansion.layers) {
    const bool identity = is_identity(weights, copy.index);
    copies_of_scored[identity ? expanded_index(copy.source, expansion.layers) : copy.index].push_back(copy.index);
  }
  std::vector<int> scored;
  for (const auto& [layer, copies] : copies_of_scored) scored.push_back(layer);

  const std::vector<double> factors = mean_factors(batches, "data.general");
  UnitValues importance;
  std::int64_t done = 0, positions = 0;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    throw_if_interrupted();
    const model::Batch& batch = batches[b].batch;
    if (batch.num_targets == 0) continue;
    const double share = factors[b] * static_cast<double>(batch.num_targets);  // p_b
    model::visit_layer_gradients(model, batch, scored, [&](const model::LayerGradients& g) {
      for (std::size_t i = 0; i < g.parameters.size(); ++i) {
        const model::Parameter& p = g.parameters[i];
        const auto& of_parameter =
            by_parameter.at(model::layer_parameter_name(copies_of_scored.at(g.layer).front(), p.local_name));
        const at::Tensor sums = sums_along(of_parameter.front()->dim, p, g.gradients[i]);
        for (std::size_t u = 0; u < of_parameter.size(); ++u) {
          const Unit& unit = *of_parameter[u];
          const double score =
              share * sums.slice(0, unit.begin, unit.end).sum().item<double>() / static_cast<double>(unit.elements);
          for (const int copy : copies_of_scored.at(g.layer))
            importance[by_parameter.at(model::layer_parameter_name(copy, p.local_name))[u]->name] += score;
        }
      }
    });
    progress.update(++done, positions += batch.num_positions());
  }
  for (const auto& [name, value] : importance)
    if (!std::isfinite(value))
      throw NonFiniteError(
          fmt::format("unit importance of {} is not finite; check the general text and the model's weights.", name));
  ADEPT_CHECK(importance.size() == units.size(), "units and scores differ in number");
  return importance;
}

}  // namespace adept::method
