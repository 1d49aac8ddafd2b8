#include "adept/method/importance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "adept/core/error.h"
#include "adept/method/json_field.h"

namespace adept::method {
namespace {

// A single sequence has no interval: its infinite bounds are null in JSON.
std::array<double, 2> read_interval(const Json& entry, const std::string& prefix) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const auto bound = [&](const Json& value, double if_null) {
    if (!value.is_null() && !value.is_number())
      throw DataError("{}ci95 holds {}; expected numbers or null", prefix, model::brief(value));
    return value.is_null() ? if_null : value.get<double>();
  };
  const Json interval = entry.is_object() ? entry.value("ci95", Json()) : Json();
  if (!interval.is_array() || interval.size() != 2)
    throw DataError("{}ci95 is {}; expected a list of two numbers", prefix, model::brief(interval));
  return {bound(interval[0], -infinity), bound(interval[1], infinity)};
}

}  // namespace

std::string_view to_string(ImportanceMethod method) {
  return method == ImportanceMethod::kMaskOut ? "mask_out" : "cumulative";
}

ImportanceMethod importance_method_from_string(std::string_view name) {
  for (const ImportanceMethod method : {ImportanceMethod::kMaskOut, ImportanceMethod::kCumulative})
    if (to_string(method) == name) return method;
  throw ConfigError("importance method: found \"{}\"; expected mask_out or cumulative.", name);
}

void normalize_and_rank(std::vector<LayerImportance>& layers) {
  for (const LayerImportance& layer : layers)
    if (!std::isfinite(layer.score))
      throw NonFiniteError(fmt::format(
          "importance of layer {}: the score is not finite; look at the model's weights and the probe text.",
          layer.index));
  const auto by_score = [](const LayerImportance& a, const LayerImportance& b) { return a.score < b.score; };
  const auto [low, high] = std::minmax_element(layers.begin(), layers.end(), by_score);
  const double min = low->score, range = high->score - low->score;
  std::vector<std::size_t> order(layers.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return layers[a].score > layers[b].score; });
  for (std::size_t position = 0; position < order.size(); ++position)
    layers[order[position]].rank = static_cast<int>(position) + 1;
  for (LayerImportance& layer : layers) layer.normalized = range > 0 ? (layer.score - min) / range : 0.0;
}

Json to_json(const Importance& importance) {
  Json layers = Json::array();
  for (const LayerImportance& layer : importance.layers)
    layers.push_back({{"index", layer.index},
                      {"score", layer.score},
                      {"normalized", layer.normalized},
                      {"rank", layer.rank},
                      {"ci95", {layer.ci95[0], layer.ci95[1]}}});
  return {{"method", importance.method},         {"baseline_loss", importance.baseline_loss},
          {"tokens", importance.tokens},         {"sequences", importance.sequences},
          {"model_hash", importance.model_hash}, {"layers", layers}};
}

Importance importance_from_json(const Json& json, const std::string& where) {
  Importance importance;
  try {
    importance.method = json_field<std::string>(json, "method");
    importance.baseline_loss = json_field<double>(json, "baseline_loss");
    importance.tokens = json_field<std::int64_t>(json, "tokens");
    importance.sequences = json_field<std::int64_t>(json, "sequences");
    if (json.contains("model_hash")) importance.model_hash = json_field<std::string>(json, "model_hash");
    for (const Json& entry : json_list(json, "layers")) {
      const std::string prefix = fmt::format("layers[{}].", importance.layers.size());
      importance.layers.push_back({.index = json_field<int>(entry, "index", prefix),
                                   .score = json_field<double>(entry, "score", prefix),
                                   .ci95 = read_interval(entry, prefix)});
    }
  } catch (const DataError& error) {
    throw DataError("{}: not importance scores of `adept probe`: {}. Run `adept probe` again.", where, error.what());
  }
  if (importance.layers.empty()) throw DataError("{}: holds no layers; run `adept probe` again.", where);
  for (std::size_t i = 0; i < importance.layers.size(); ++i)
    if (importance.layers[i].index != static_cast<int>(i))
      throw DataError("{}: entry {} of layers has index {}; expected every layer once, in order.", where, i,
                      importance.layers[i].index);
  normalize_and_rank(importance.layers);
  return importance;
}

Importance read_importance(const std::filesystem::path& path) {
  return importance_from_json(read_json(path), path.string());
}

}  // namespace adept::method
