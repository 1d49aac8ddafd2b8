// The mean per predicted token over sources of text, weighted by source, independent of their sizes:
//
//   mean = sum over sources s of  w_s / (sum of w) * total_s / tokens_s
//
// It is linear in what each sequence or batch i adds to its source's total. Therefore every measurement on text is a
// sum of factor_i * total_i, with the factors computed here.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "adept/model/batch.h"

namespace adept::method {

/// Sequences of one source of text.
struct ProbeBatch {
  model::Batch batch;
  int source = 0;     ///< 0, 1, ...
  double weight = 1;  ///< of the source in a mean, relative; the same in all its batches
};

/// Properties of items of text; each span (N).
struct TextItems {
  std::span<const double> tokens;  ///< predicted
  std::span<const int> sources;    ///< empty: one source
  std::map<int, double> weights;   ///< of the sources; empty: equal
  std::span<const double> counts;  ///< how often each item counts, as in a resample; empty: once
};

/// factor_i of each item, its count included: w_s / (sum of w) / tokens_s. Sources without a count are ignored.
std::vector<double> mean_factors(const TextItems& items);

/// factor_i of each batch; 0 for one without a predicted token. Throws DataError, with `text` as the place, if no token
/// is predicted in any.
std::vector<double> mean_factors(std::span<const ProbeBatch> batches, const std::string& text);

/// Content hash of batches: of tokens and targets as they are batched, sources and weights.
std::string fingerprint(std::span<const ProbeBatch> batches);

}  // namespace adept::method
