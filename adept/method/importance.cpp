#include "adept/method/importance.h"

#include <algorithm>
#include <numeric>

#include "adept/core/error.h"

namespace adept::method {

std::string_view to_string(ImportanceMethod method) {
  return method == ImportanceMethod::kMaskOut ? "mask_out" : "cumulative";
}

ImportanceMethod importance_method_from_string(std::string_view name) {
  for (const ImportanceMethod method : {ImportanceMethod::kMaskOut, ImportanceMethod::kCumulative})
    if (to_string(method) == name) return method;
  throw ConfigError("importance method: found \"{}\"; expected mask_out or cumulative.", name);
}

void normalize_and_rank(std::vector<LayerImportance>& layers) {
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
    json.at("method").get_to(importance.method);
    json.at("baseline_loss").get_to(importance.baseline_loss);
    json.at("tokens").get_to(importance.tokens);
    json.at("sequences").get_to(importance.sequences);
    importance.model_hash = json.value("model_hash", "");
    for (const Json& entry : json.at("layers")) {
      LayerImportance layer;
      entry.at("index").get_to(layer.index);
      entry.at("score").get_to(layer.score);
      // A single sequence has no interval: infinities are null in JSON.
      for (std::size_t side = 0; side < 2; ++side) {
        const Json& bound = entry.at("ci95").at(side);
        constexpr double infinity = std::numeric_limits<double>::infinity();
        layer.ci95[side] = bound.is_null() ? (side == 0 ? -infinity : infinity) : bound.get<double>();
      }
      importance.layers.push_back(layer);
    }
  } catch (const Json::exception& error) {
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
