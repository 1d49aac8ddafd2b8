#include "adept/method/beyond/scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "adept/core/error.h"
#include "adept/io/record.h"
#include "adept/method/beyond/json_field.h"
#include "adept/method/importance.h"

namespace adept::method {
namespace {

constexpr double kLargest = std::numeric_limits<double>::max();
constexpr std::int64_t kMostTokens = std::numeric_limits<std::int64_t>::max();

// A single sequence has no interval: its infinite bounds are null in JSON.
std::array<double, 2> read_interval(const Json& entry, const std::string& prefix) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const auto bound = [&](const Json& value, double if_null) {
    if (!value.is_null() && !value.is_number())
      throw DataError("{}ci95 contains {}; expected numbers or null", prefix, brief(value));
    return value.is_null() ? if_null : value.get<double>();
  };
  const Json interval = entry.is_object() ? entry.value("ci95", Json()) : Json();
  if (!interval.is_array() || interval.size() != 2)
    throw DataError("{}ci95 is {}; expected a list of two numbers", prefix, brief(interval));
  const std::array<double, 2> bounds = {bound(interval[0], -infinity), bound(interval[1], infinity)};
  if (bounds[0] > bounds[1]) throw DataError("{}ci95 is {}; expected ascending bounds", prefix, brief(interval));
  return bounds;
}

// Sums of 1 / n may be above 1 by their rounding.
double read_share(const Json& object, const std::string& key, const std::string& prefix) {
  const double share = json_field<double>(object, key, prefix);
  if (!(share >= 0 && share <= 1 + 1e-9)) throw DataError("{}{} is {}; expected 0 to 1", prefix, key, share);
  return share;
}

std::vector<Figure> figures_of(const std::string& name) {
  const ImportanceMethod* method = find_importance_method(name);
  return method == nullptr ? std::vector<Figure>() : std::vector(method->figures.begin(), method->figures.end());
}

}  // namespace

std::vector<double> Importance::scores() const {
  std::vector<double> scores;
  for (const LayerImportance& layer : layers) scores.push_back(layer.score);
  return scores;
}

void normalize_and_rank(std::vector<LayerImportance>& layers) {
  for (const LayerImportance& layer : layers)
    if (!std::isfinite(layer.score))
      throw NonFiniteError(
          fmt::format("importance of layer {}: the score is not finite; check the model's weights and the probe text.",
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
  const bool resampled = importance.stability.num_resamples > 0;
  const std::vector<Figure> figures = figures_of(importance.method);
  Json layers = Json::array();
  for (const LayerImportance& layer : importance.layers) {
    layers.push_back({{"index", layer.index},
                      {"score", layer.score},
                      {"normalized", layer.normalized},
                      {"rank", layer.rank},
                      {"ci95", {layer.ci95[0], layer.ci95[1]}}});
    if (resampled) layers.back()["lowest_share"] = layer.lowest_share;
    for (std::size_t f = 0; f < layer.figures.size(); ++f)
      layers.back()[importance.method][std::string(figures.at(f).name)] = layer.figures[f];
  }
  Json json = {{"method", importance.method},
               {"baseline_loss", importance.baseline_loss},
               {"tokens", importance.tokens},
               {"sequences", importance.sequences}};
  if (importance.model) json["model"] = io::to_json(*importance.model);
  json["layers"] = layers;
  if (resampled)
    json["stability"] = {{"num_lowest", importance.stability.num_lowest},
                         {"resamples", importance.stability.num_resamples},
                         {"same_set_share", importance.stability.same_set_share},
                         {"degrees_of_freedom", importance.stability.degrees_of_freedom}};
  if (!importance.stability.covariance.empty()) json["stability"]["covariance"] = importance.stability.covariance;
  if (importance.separation)
    json["separation"] = {{"reached", importance.separation->reached},
                          {"required_share", importance.separation->required_share},
                          {"looks", importance.separation->looks}};
  return json;
}

Json to_json(std::span<const Importance> importances) {
  Json json = to_json(importances[0]);
  for (const Importance& other : importances.subspan(1)) json["methods"][other.method] = to_json(other);
  return json;
}

namespace {

Stability read_stability(const Json& json, std::size_t num_layers) {
  constexpr int most = std::numeric_limits<int>::max();
  const auto layers = static_cast<int>(num_layers);
  Stability stability{.num_lowest = json_field_in<int>(json, "num_lowest", 1, layers, "stability."),
                      .num_resamples = json_field_in<int>(json, "resamples", 1, most, "stability."),
                      .same_set_share = read_share(json, "same_set_share", "stability."),
                      .degrees_of_freedom = json_field_in<int>(json, "degrees_of_freedom", 1, most, "stability."),
                      .covariance = {}};
  for (const Json& row : json.contains("covariance") ? json_list(json, "covariance") : Json::array()) {
    std::vector<double> values;
    for (const Json& value : row) {
      if (!value.is_number() && !value.is_null())
        throw DataError("stability.covariance contains {}; expected numbers or null", brief(value));
      values.push_back(value.is_null() ? std::numeric_limits<double>::infinity() : value.get<double>());
    }
    stability.covariance.push_back(std::move(values));
  }
  for (const auto& row : stability.covariance)
    if (row.size() != num_layers || stability.covariance.size() != num_layers)
      throw DataError("stability.covariance has another size; expected a row and a column for each of the {} layers",
                      num_layers);
  return stability;
}

Importance read_scores(const Json& json) {
  Importance importance;
  importance.method = json_field<std::string>(json, "method");
  importance.baseline_loss = json_field<double>(json, "baseline_loss");
  importance.tokens = json_field_in<std::int64_t>(json, "tokens", 1, kMostTokens);
  importance.sequences = json_field_in<std::int64_t>(json, "sequences", 1, kMostTokens);
  if (json.contains("model")) importance.model = io::model_identity_from_json(json["model"], "model.");
  const std::vector<Figure> figures = figures_of(importance.method);
  for (const Json& entry : json_list(json, "layers")) {
    const std::string prefix = fmt::format("layers[{}].", importance.layers.size());
    importance.layers.push_back({.index = json_field<int>(entry, "index", prefix),
                                 .score = json_field<double>(entry, "score", prefix),
                                 .ci95 = read_interval(entry, prefix)});
    if (entry.contains("lowest_share"))
      importance.layers.back().lowest_share = read_share(entry, "lowest_share", prefix);
    if (!figures.empty() && entry.contains(importance.method))
      for (const Figure& figure : figures)
        importance.layers.back().figures.push_back(json_field_in<double>(
            entry[importance.method], std::string(figure.name), figure.can_be_negative ? -kLargest : 0, kLargest,
            fmt::format("{}{}.", prefix, importance.method)));
  }
  if (json.contains("stability")) importance.stability = read_stability(json["stability"], importance.layers.size());
  if (json.contains("separation")) {
    const Json& separation = json["separation"];
    importance.separation = {.reached = separation.is_object() && separation.value("reached", Json()) == true,
                             .required_share = read_share(separation, "required_share", "separation."),
                             .looks = json_field_in<int>(separation, "looks", 0, 1000, "separation.")};
  }
  return importance;
}

// The part of the file that holds the scores of `method`.
const Json& scores_of(const Json& json, const std::string& method) {
  if (method.empty() || json_field<std::string>(json, "method") == method) return json;
  std::string known = json_field<std::string>(json, "method");
  if (json.contains("methods") && json["methods"].is_object()) {
    if (json["methods"].contains(method)) return json["methods"][method];
    for (const auto& [name, scores] : json["methods"].items()) known += ", " + name;
  }
  throw ConfigError("found no scores of {}; expected a probed method: {}", method, known);
}

}  // namespace

Importance importance_from_json(const Json& json, const std::string& where, const std::string& method) {
  Importance importance;
  try {
    importance = read_scores(scores_of(json, method));
  } catch (const DataError& error) {
    throw DataError("{}: not importance scores of `adept probe`: {}. Run `adept probe` again.", where, error.what());
  } catch (const ConfigError& error) {
    throw ConfigError("{}: {}.", where, error.what());
  }
  if (importance.layers.empty()) throw DataError("{}: contains no layers. Run `adept probe` again.", where);
  for (std::size_t i = 0; i < importance.layers.size(); ++i)
    if (importance.layers[i].index != static_cast<int>(i))
      throw DataError("{}: entry {} of layers has index {}; expected every layer once, in order.", where, i,
                      importance.layers[i].index);
  normalize_and_rank(importance.layers);
  return importance;
}

Importance read_importance(const std::filesystem::path& path, const std::string& method) {
  return importance_from_json(io::read_record(path, io::NoChecksum::kAccepted), path.string(), method);
}

}  // namespace adept::method
