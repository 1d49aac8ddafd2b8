// Results of a model on a set of text: metrics, and the amount of text.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/json.h"
#include "adept/data/sequences.h"

namespace adept::eval {

/// One figure.
struct Metric {
  std::string name;
  double value = 0;                        ///< may be infinite or NaN, which are null in JSON
  std::optional<double> standard_error{};  ///< of a measurement on a sample, if known; not written to files
  bool higher_is_better = false;
};

/// The results of one set.
struct Result {
  std::vector<Metric> metrics;  ///< the first one is the headline, which training logs
  std::int64_t tokens = 0;      ///< predicted; padding and the first token of a sequence never are
  std::int64_t documents = 0;   ///< with at least one predicted token
  data::SampleSize text{};      ///< how much of the set was scored

  const Metric& headline() const { return metrics.front(); }
  const Metric* find(std::string_view name) const;
  /// The value of a metric; InternalError if it does not exist.
  double value(std::string_view name) const;
};

/// By name of the set.
using Results = std::map<std::string, Result>;

/// The scores of one set, from which metrics are computed.
struct Scores {
  struct OfSequence {
    double loss = 0;  ///< summed over its predicted tokens, nats
    std::int64_t tokens = 0;
  };
  std::vector<OfSequence> sequences;
  data::SequenceCounts counts;  ///< of documents, bytes and tokens
};

/// Computes every metric: `loss`, nats per predicted token, weighted equally; `perplexity`, exp(loss); `bits_per_byte`,
/// loss / ln 2 * tokens per byte of the documents' UTF-8 text, where unpredicted tokens count like the others, but
/// those that are context only, and their text, do not; comparable between tokenizers. To add one: a row of the table
/// in metric.cpp.
std::vector<Metric> metrics_of(const Scores& scores);
/// The names of what metrics_of() computes. Results of a build with other metrics are evaluated again.
std::vector<std::string> metric_names();

/// How the table at the end of a run shows a metric.
struct MetricColumn {
  std::string_view title;          ///< empty: not in the table, but in all_results.json
  int decimals = 4;                ///< of a value
  bool change_in_percent = false;  ///< of the base model's value; otherwise a difference
};
/// With its name as title if it is not in the table of metric.cpp.
MetricColumn column_of(std::string_view metric);

/// "loss 2.9313 (+- 0.0120)"
std::string describe(const Metric& metric);

/// Throws NonFiniteError with the set's `name` if the headline is not finite.
void require_finite(const std::string& name, const Result& result);

Json to_json(const Result& result);
/// A null value becomes the worst infinity. Throws DataError for anything else; `where` names it.
Result result_from_json(const Json& json, const std::string& where);

/// results.json: {"datasets": {NAME: {...}}}.
Json results_to_json(const Results& results);
Results results_from_json(const Json& json, const std::string& where);

}  // namespace adept::eval
