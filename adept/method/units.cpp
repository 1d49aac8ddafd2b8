#include "adept/method/units.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/method/layer_gradients.h"

namespace adept::method {
namespace {

bool is_zero(const at::Tensor& tensor) { return !tensor.defined() || !tensor.detach().ne(0).any().item<bool>(); }

bool is_identity(const model::LayerWeights& layer) {
  return is_zero(layer.o_proj.weight) && is_zero(layer.o_proj.bias) && is_zero(layer.down_proj.weight) &&
         is_zero(layer.down_proj.bias);
}

}  // namespace

std::vector<std::string> unit_names(const Expansion& expansion, const model::Decoder& decoder) {
  std::vector<std::string> names;
  model::Weights weights = decoder.weights();
  for (const ExpandedLayer& copy : expansion.layers)
    for (const model::NamedTensor& p : model::layer_parameters(decoder.config(), weights, copy.index))
      names.push_back(p.name);
  return names;
}

UnitValues unit_importance(const Expansion& expansion, const model::Decoder& decoder,
                           const std::vector<ProbeBatch>& batches, Progress& progress) {
  // The copies that each scored layer stands for: itself, or those that are still the identity, of which it is the
  // source.
  std::map<int, std::vector<int>> copies_of_scored;
  for (const ExpandedLayer& copy : expansion.layers) {
    const bool identity = is_identity(decoder.weights().layers[static_cast<std::size_t>(copy.index)]);
    copies_of_scored[identity ? expanded_index(copy.source, expansion.layers) : copy.index].push_back(copy.index);
  }
  std::vector<int> scored;
  for (const auto& [layer, copies] : copies_of_scored) scored.push_back(layer);

  std::map<int, UnitValues> totals;  // by source
  std::map<int, double> tokens;
  std::int64_t done = 0, positions = 0;
  for (const auto& [batch, source] : batches) {
    throw_if_interrupted();
    if (batch.num_targets == 0) continue;
    const auto n = static_cast<double>(batch.num_targets);
    UnitValues& total = totals[source];
    visit_layer_gradients(decoder, batch, scored, [&](const LayerGradients& g) {
      for (std::size_t i = 0; i < g.parameters.size(); ++i) {
        const double score = n * first_order_importance(*g.parameters[i].tensor, g.gradients[i]) /
                             static_cast<double>(g.gradients[i].numel());
        for (const int copy : copies_of_scored.at(g.layer))
          total[model::layer_parameter_name(copy, g.parameters[i].unit)] += score;
      }
    });
    tokens[source] += n;
    progress.update(++done, positions += batch.num_positions());
  }
  if (tokens.empty())
    throw DataError("data.general: found no token to predict; expected documents of at least two tokens.");
  UnitValues importance;
  for (const auto& [source, total] : totals)
    for (const auto& [name, value] : total)
      importance[name] += value / tokens.at(source) / static_cast<double>(totals.size());
  for (const auto& [name, value] : importance)
    if (!std::isfinite(value))
      throw NonFiniteError(
          fmt::format("unit importance of {} is not finite; look at the general text and the model's weights.", name));
  ADEPT_CHECK(importance.size() == unit_names(expansion, decoder).size(), "units and scores differ in number");
  return importance;
}

std::string_view to_string(UnitLrPolicy policy) { return policy == UnitLrPolicy::kReference ? "reference" : "uniform"; }

UnitValues unit_lr_weights(UnitLrPolicy policy, const UnitValues& importance) {
  ADEPT_CHECK(!importance.empty(), "no units");
  const auto by_value = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto [low, high] = std::minmax_element(importance.begin(), importance.end(), by_value);
  const double max = high->second, range = high->second - low->second;
  UnitValues weights;
  for (const auto& [name, value] : importance)
    weights[name] = policy == UnitLrPolicy::kUniform || range == 0 ? 1.0 : 2.0 * (max - value) / range;
  return weights;
}

}  // namespace adept::method
