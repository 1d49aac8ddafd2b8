// Statistics of scores from a sample of sequences: intervals, resampling, agreement.
//
// Legend: N sequences, L layers, R resamples.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "adept/method/importance.h"

namespace adept::method {

/// Totals of sequences, their tokens, and the source that each is from.
struct StratifiedTotals {
  std::span<const double> totals;  ///< (N)
  std::span<const double> tokens;  ///< (N)
  std::span<const int> sources;    ///< (N); empty: one source
  std::map<int, double> weights;   ///< of the sources; empty: equal
};

/// Mean per token, as in source_mean.h.
double token_mean(const StratifiedTotals& sample);

/// 95 % interval of token_mean, the sequences of each source being its sample: the ratio estimator's standard error
/// (Cochran, Sampling Techniques, 6.4; over sources as strata, 6.10) times Student's t with N - sources degrees of
/// freedom. If a source has one sequence, the interval is unknown: [-inf, inf].
std::array<double, 2> token_mean_ci95(const StratifiedTotals& sample);

/// Two-sided 95 % quantile of Student's t.
double student_t_975(int degrees_of_freedom);

/// Scores of `num_resamples` bootstrap samples, (R, L): the sequences of each source drawn with replacement. The same
/// seed draws the same.
std::vector<std::vector<double>> resampled_scores(const ProbeSamples& samples, const FromSequences& method,
                                                  int num_resamples, std::uint64_t seed);

/// Indices of the k lowest scores, ascending by index; among equal scores the later one.
std::vector<int> lowest(std::span<const double> scores, int k);

/// Spearman's rank correlation; equal values share their mean rank. NaN if all values of one are equal.
double spearman(std::span<const double> a, std::span<const double> b);

}  // namespace adept::method
