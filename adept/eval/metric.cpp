#include "adept/eval/metric.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "adept/core/error.h"
#include "adept/io/record.h"

namespace adept::eval {
namespace {

struct Estimate {
  double value = 0;
  std::optional<double> standard_error{};

  Estimate times(double factor) const {
    return {value * factor, standard_error ? std::optional(*standard_error * factor) : std::nullopt};
  }
};

// The mean over tokens, and its error as a ratio of sums over sequences: the tokens of one sequence depend on each
// other (Cochran, Sampling Techniques, 6.4).
Estimate loss(const Scores& scores) {
  double total = 0, squares = 0;
  std::int64_t tokens = 0;
  for (const auto& sequence : scores.sequences) {
    total += sequence.loss;
    tokens += sequence.tokens;
  }
  const double mean = total / static_cast<double>(tokens);
  for (const auto& sequence : scores.sequences) {
    const double residual = sequence.loss - mean * static_cast<double>(sequence.tokens);
    squares += residual * residual;
  }
  const auto n = static_cast<double>(scores.sequences.size());
  if (n < 2) return {mean};
  return {mean, std::sqrt(n / (n - 1) * squares) / static_cast<double>(tokens)};
}

Estimate perplexity(const Scores& scores) {
  const Estimate mean = loss(scores);
  const double value = std::exp(mean.value);  // which is its own derivative
  return {value, mean.standard_error ? std::optional(*mean.standard_error * value) : std::nullopt};
}

Estimate bits_per_byte(const Scores& scores) {
  const data::SequenceCounts& counts = scores.counts;
  if (counts.bytes == 0) return {};
  return loss(scores).times(static_cast<double>(counts.measured) / static_cast<double>(counts.bytes) /
                            std::numbers::ln2);
}

struct Row {
  std::string_view name;
  bool higher_is_better;
  Estimate (*compute)(const Scores&);
  MetricColumn column;

  double worst() const { return (higher_is_better ? -1 : 1) * std::numeric_limits<double>::infinity(); }
};

constexpr Row kMetrics[] = {
    {"loss", false, loss, {.title = "loss"}},
    {"perplexity", false, perplexity, {.title = "ppl", .decimals = 3, .change_in_percent = true}},
    {"bits_per_byte", false, bits_per_byte, {.title = ""}},
};

}  // namespace

const Metric* Result::find(std::string_view name) const {
  for (const Metric& metric : metrics)
    if (metric.name == name) return &metric;
  return nullptr;
}

double Result::value(std::string_view name) const {
  const Metric* metric = find(name);
  ADEPT_CHECK(metric != nullptr, "there is no metric {}", name);
  return metric->value;
}

std::vector<Metric> metrics_of(const Scores& scores) {
  std::vector<Metric> metrics;
  for (const Row& row : kMetrics) {
    const Estimate found = row.compute(scores);
    metrics.push_back({.name = std::string(row.name),
                       .value = found.value,
                       .standard_error = found.standard_error,
                       .higher_is_better = row.higher_is_better});
  }
  return metrics;
}

std::vector<std::string> metric_names() {
  std::vector<std::string> names;
  for (const Row& row : kMetrics) names.emplace_back(row.name);
  return names;
}

MetricColumn column_of(std::string_view metric) {
  for (const Row& row : kMetrics)
    if (row.name == metric) return row.column;
  return {.title = metric};
}

std::string describe(const Metric& metric) {
  return fmt::format("{} {:.4f}{}", metric.name, metric.value,
                     metric.standard_error ? fmt::format(" (+- {:.4f})", *metric.standard_error) : "");
}

void require_finite(const std::string& name, const Result& result) {
  if (!std::isfinite(result.headline().value))
    throw NonFiniteError(
        fmt::format("{}: the {} is not finite; the model's weights are damaged, or the model requires dtype fp32.",
                    name, result.headline().name));
}

Json to_json(const Result& result) {
  Json json = Json::object();
  for (const Metric& metric : result.metrics) json[metric.name] = metric.value;
  json["tokens"] = result.tokens;
  json["documents"] = result.documents;
  json["text"] = data::to_json(result.text);
  return json;
}

Result result_from_json(const Json& json, const std::string& where) {
  try {
    Result result;
    for (const Row& row : kMetrics)
      result.metrics.push_back({.name = std::string(row.name),
                                .value = io::number_or(json, std::string(row.name), row.worst()),
                                .higher_is_better = row.higher_is_better});
    json.at("tokens").get_to(result.tokens);
    json.at("documents").get_to(result.documents);
    result.text = data::sample_size_from_json(json.at("text"));
    return result;
  } catch (const std::exception& error) {
    throw DataError("{}: not a result of `adept eval`: {}. Run `adept eval` again.", where, error.what());
  }
}

Json results_to_json(const Results& results) {
  Json entries = Json::object();
  for (const auto& [name, result] : results) entries[name] = to_json(result);
  return {{"datasets", entries}};
}

Results results_from_json(const Json& json, const std::string& where) {
  if (!json.contains("datasets")) throw DataError("{}: has no \"datasets\". Run `adept eval` again.", where);
  Results results;
  for (const auto& [name, entry] : json.at("datasets").items()) results[name] = result_from_json(entry, where);
  return results;
}

}  // namespace adept::eval
