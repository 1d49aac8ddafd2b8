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
                           const std::vector<model::Batch>& batches, Progress& progress) {
  // The layer that is scored for each copy: the copy itself, or its source while it is the identity.
  std::map<int, int> copy_of_scored;
  for (const ExpandedLayer& copy : expansion.layers) {
    const bool identity = is_identity(decoder.weights().layers[static_cast<std::size_t>(copy.index)]);
    copy_of_scored[identity ? expanded_index(copy.source, expansion.layers) : copy.index] = copy.index;
  }
  std::vector<int> scored;
  for (const auto& [layer, copy] : copy_of_scored) scored.push_back(layer);

  UnitValues importance;
  double tokens = 0;
  std::int64_t done = 0, positions = 0;
  for (const model::Batch& batch : batches) {
    throw_if_interrupted();
    if (batch.num_targets == 0) continue;
    const auto n = static_cast<double>(batch.num_targets);
    visit_layer_gradients(decoder, batch, scored, [&](int layer, auto parameters, auto gradients) {
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        const std::string name = model::layer_parameter_name(copy_of_scored.at(layer), parameters[i].unit);
        importance[name] +=
            n * first_order_importance(*parameters[i].tensor, gradients[i]) / static_cast<double>(gradients[i].numel());
      }
    });
    tokens += n;
    progress.update(++done, positions += batch.num_positions());
  }
  if (tokens == 0)
    throw DataError("data.general: found no token to predict; expected documents of at least two tokens.");
  for (auto& [name, value] : importance) {
    value /= tokens;
    if (!std::isfinite(value))
      throw NonFiniteError(
          fmt::format("unit importance of {} is not finite; look at the general text and the model's weights.", name));
  }
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
