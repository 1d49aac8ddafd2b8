#include "adept/method/statistics.h"

#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "adept/core/error.h"

namespace adept::method {
namespace {

// P(|T| <= t) for n degrees of freedom, as a finite trigonometric sum (Abramowitz & Stegun 26.7.3, 26.7.4).
double student_t_two_sided(double t, int n) {
  const double theta = std::atan(t / std::sqrt(static_cast<double>(n)));
  const double cosine = std::cos(theta), sine = std::sin(theta);
  const bool odd = n % 2 == 1;
  double term = odd ? cosine : 1.0, sum = (odd && n == 1) ? 0.0 : term;
  for (int k = odd ? 3 : 2; k <= n - 2; k += 2) {
    term *= cosine * cosine * (k - 1) / k;
    sum += term;
  }
  return odd ? 2 / std::numbers::pi * (theta + sine * sum) : sine * sum;
}

}  // namespace

double student_t_975(int degrees_of_freedom) {
  ADEPT_CHECK(degrees_of_freedom >= 1, "{} degrees of freedom", degrees_of_freedom);
  constexpr int kNearlyNormal = 10'000;  // beyond it the quantile differs from the normal's by less than 3e-4
  if (degrees_of_freedom > kNearlyNormal) return 1.959963984540054;
  double low = 1.9, high = 13.0;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    (student_t_two_sided(middle, degrees_of_freedom) < 0.95 ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

double weighted_mean(std::span<const double> totals, std::span<const double> weights) {
  return std::accumulate(totals.begin(), totals.end(), 0.0) / std::accumulate(weights.begin(), weights.end(), 0.0);
}

std::array<double, 2> weighted_mean_ci95(std::span<const double> totals, std::span<const double> weights) {
  ADEPT_CHECK(totals.size() == weights.size(), "{} totals, {} weights", totals.size(), weights.size());
  const auto n = static_cast<double>(totals.size());
  if (totals.size() < 2) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    return {-infinity, infinity};
  }
  const double mean = weighted_mean(totals, weights);
  double squares = 0, weight = 0;
  for (std::size_t i = 0; i < totals.size(); ++i) {
    const double residual = totals[i] - mean * weights[i];
    squares += residual * residual;
    weight += weights[i];
  }
  const double error = std::sqrt(squares * n / (n - 1)) / weight;
  const double half_width = student_t_975(static_cast<int>(totals.size()) - 1) * error;
  return {mean - half_width, mean + half_width};
}

}  // namespace adept::method
