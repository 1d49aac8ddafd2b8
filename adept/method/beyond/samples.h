// Measurements per sequence and layer, from which importance methods compute scores. Resampling the sequences gives the
// confidence, and an interrupted probe continues from them.
//
// Legend: N sequences, L layers, P tensors of a layer.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/json.h"
#include "adept/method/beyond/source_mean.h"

namespace adept::method {

/// One measure of a layer. Values are totals over the predicted tokens of a sequence, so total / tokens is a mean per
/// token.
struct MeasureTable {
  std::vector<std::string> tensors = {""};  ///< P names, local to the layer; or one without a name: the whole layer
  std::vector<double> values;               ///< (N, L, P)
};

/// All measurements so far. Sequences without a predicted token are skipped.
struct ProbeSamples {
  int num_layers = 0;
  std::vector<double> tokens;                               ///< (N) predicted
  std::vector<double> losses;                               ///< (N) sums, nats
  std::vector<int> sources;                                 ///< (N)
  std::map<int, double> source_weights;                     ///< of the existing sources
  std::map<std::string, MeasureTable, std::less<>> tables;  ///< by name of the measure

  std::size_t num_sequences() const { return tokens.size(); }
  /// The table of a measure, created if missing.
  MeasureTable& table(std::string_view measure);
};

/// Means per token of a measure over the sequences, weighted as in source_mean.h.
struct LayerMeans {
  int num_layers = 0, num_tensors = 1;
  std::vector<double> values;  ///< (L, P)

  double at(int layer, int tensor) const { return values[static_cast<std::size_t>(layer * num_tensors + tensor)]; }
  /// Sum over the tensors.
  double sum(int layer) const;
};

/// `counts` says how often each sequence counts, as in a resample; empty: once. Every source must have a count.
LayerMeans layer_means(const ProbeSamples& samples, std::string_view measure, std::span<const double> counts = {});

/// Predicted tokens of each row: (B).
std::vector<double> target_counts(const model::Batch& batch);

/// Adds tokens and source of each sequence of the batch that predicts a token: once per batch, before its passes.
void add_sequences(const ProbeBatch& batch, ProbeSamples& samples);

/// For a probe that continues in another session.
Json to_json(const ProbeSamples& samples);
/// Throws Json::exception or DataError for anything else.
ProbeSamples samples_from_json(const Json& json);

}  // namespace adept::method
