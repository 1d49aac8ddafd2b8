// What a probe measures: numbers of each sequence and layer, from which every importance method makes its scores.
//
// Legend: N sequences, L layers, P parts of a layer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/model/batch.h"
#include "adept/model/decoder.h"

namespace adept::method {

/// Sequences of one source of text. What is measured is the mean of the sources' means per token, whatever their sizes.
struct ProbeBatch {
  model::Batch batch;
  int source = 0;     ///< 0, 1, ...
  double weight = 1;  ///< of the source in that mean, relative; the same in all its batches
};

/// The share of each source in a mean: its weight over those of all sources that have a token to predict.
std::map<int, double> source_shares(std::span<const ProbeBatch> batches);

/// Content hash of batches: of tokens and targets as they are batched, sources and weights.
std::string fingerprint(std::span<const ProbeBatch> batches);

/// A quantity that the passes below measure, of sequence n and layer l. All are totals over n's predicted tokens, so
/// that total / tokens is a mean per token. g is the gradient of n's mean loss, F_l(h_l) = h_{l+1} - h_l.
enum class Measure {
  kBypassLoss,       ///< loss with the layer bypassed minus the model's, nats
  kFirstOrder,       ///< of each tensor theta of the layer: tokens times the sum over its elements of |g theta|
  kSquaredGradient,  ///< tokens times the sum over the layer's elements of g^2
  kGate,             ///< -<dL/dh_{l+1}, F_l(h_l)>, L the sum of losses: first order in a gate before F_l
  kAngle,            ///< sum over positions with a target of 1 - cos(h_l, h_{l+1})
};

/// One measure.
struct MeasureTable {
  std::vector<std::string> parts = {""};  ///< P names: tensors within a layer, or one without a name
  std::vector<double> values;             ///< (N, L, P)
};

/// All that was measured so far. Sequences without a predicted token are left out.
struct ProbeSamples {
  int num_layers = 0;
  std::vector<double> tokens;            ///< (N) predicted
  std::vector<double> losses;            ///< (N) sums, nats
  std::vector<int> sources;              ///< (N)
  std::map<int, double> source_weights;  ///< of the sources that are there
  std::map<Measure, MeasureTable> tables;

  std::size_t num_sequences() const { return tokens.size(); }
};

/// Per-token means of a measure over the sequences, averaged over the sources by their weights.
struct LayerMeans {
  int num_layers = 0, num_parts = 1;
  std::vector<double> values;  ///< (L, P)

  double at(int layer, int part) const { return values[static_cast<std::size_t>(layer * num_parts + part)]; }
  /// Sum over the parts.
  double sum(int layer) const;
};

/// `counts` says how often each sequence counts, as in a resample; empty: once. Every source must have a count.
LayerMeans layer_means(const ProbeSamples& samples, Measure measure, std::span<const double> counts = {});

/// Each pass below adds the sequences of one batch to the tables of its measures. `tick` is called now and then with
/// the positions that were computed since.
using Tick = std::function<void(std::int64_t positions)>;

/// kBypassLoss. Bypasses every layer in turn (identity residual). The prefix below a bypassed layer is computed once
/// and reused, so the cost is L + L(L-1)/2 layer passes and L+1 heads instead of L + L(L-1); the losses are
/// bit-identical to those of measure_bypass_naive.
void measure_bypass(const model::Decoder& decoder, const ProbeBatch& batch, ProbeSamples& samples, const Tick& tick);
/// The plain definition: L+1 whole forward passes. For tests.
void measure_bypass_naive(const model::Decoder& decoder, const ProbeBatch& batch, ProbeSamples& samples);
/// kFirstOrder, kSquaredGradient, kGate and kAngle, all from one backward pass per sequence. The decoder's weights and
/// their gradients are left as they were.
void measure_gradients(const model::Decoder& decoder, const ProbeBatch& batch, ProbeSamples& samples, const Tick& tick);
/// kAngle alone, from one forward pass.
void measure_angles(const model::Decoder& decoder, const ProbeBatch& batch, ProbeSamples& samples, const Tick& tick);

/// Adds tokens and source of each sequence of the batch that predicts a token: once per batch, before its passes.
void add_sequences(const ProbeBatch& batch, ProbeSamples& samples);

/// Drops all but the first sequences: what a pass that was interrupted has left of its batch.
void keep_first(ProbeSamples& samples, std::size_t num_sequences);

/// For a probe that goes on in another session.
Json to_json(const ProbeSamples& samples);
/// Throws Json::exception or DataError for anything else.
ProbeSamples samples_from_json(const Json& json);

}  // namespace adept::method
