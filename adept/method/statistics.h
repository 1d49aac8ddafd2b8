// Confidence intervals for token-weighted means over sequences.
#pragma once

#include <array>
#include <span>

namespace adept::method {

/// Sum of `totals` / sum of `weights`: per-token mean of per-sequence sums.
double weighted_mean(std::span<const double> totals, std::span<const double> weights);

/// 95 % interval of weighted_mean, the sequences being the sample: the ratio estimator's standard error (Cochran,
/// Sampling Techniques, 6.4) times Student's t. With one sequence nothing is known: [-inf, inf].
std::array<double, 2> weighted_mean_ci95(std::span<const double> totals, std::span<const double> weights);

/// Two-sided 95 % quantile of Student's t.
double student_t_975(int degrees_of_freedom);

}  // namespace adept::method
