#include "adept/method/beyond/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <numeric>

#include "adept/core/error.h"
#include "adept/core/random.h"

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

namespace {

std::vector<double> factors_of(const StratifiedTotals& sample) {
  ADEPT_CHECK(sample.totals.size() == sample.tokens.size() && !sample.totals.empty(), "{} totals, {} token counts",
              sample.totals.size(), sample.tokens.size());
  ADEPT_CHECK(sample.sources.empty() || sample.sources.size() == sample.totals.size(), "sources and totals differ");
  return mean_factors({.tokens = sample.tokens, .sources = sample.sources, .weights = sample.weights, .counts = {}});
}

// Ranks from 1, equal values sharing their mean rank.
std::vector<double> ranks(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) result[order[i]] = 0.5 * static_cast<double>(begin + 1 + end);
  }
  return result;
}

}  // namespace

double token_mean(const StratifiedTotals& sample) {
  const std::vector<double> factors = factors_of(sample);
  return std::inner_product(factors.begin(), factors.end(), sample.totals.begin(), 0.0);
}

std::array<double, 2> token_mean_ci95(const StratifiedTotals& sample) {
  const std::vector<double> factors = factors_of(sample);
  struct Source {
    double total = 0, tokens = 0, n = 0, squares = 0;  // squares: of the residuals, by their factors
  };
  std::map<int, Source> sources;
  const auto source = [&](std::size_t i) -> Source& { return sources[sample.sources.empty() ? 0 : sample.sources[i]]; };
  for (std::size_t i = 0; i < factors.size(); ++i) {
    source(i).total += sample.totals[i];
    source(i).tokens += sample.tokens[i];
    source(i).n += 1;
  }
  double mean = 0, variance = 0;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    Source& s = source(i);
    const double residual = factors[i] * (sample.totals[i] - s.total / s.tokens * sample.tokens[i]);
    s.squares += residual * residual;
    mean += factors[i] * sample.totals[i];
  }
  for (const auto& [index, s] : sources) {
    if (s.n < 2) {
      constexpr double infinity = std::numeric_limits<double>::infinity();
      return {-infinity, infinity};
    }
    variance += s.squares * s.n / (s.n - 1);
  }
  const auto freedom = static_cast<int>(sample.totals.size() - sources.size());
  const double half_width = student_t_975(freedom) * std::sqrt(variance);
  return {mean - half_width, mean + half_width};
}

std::vector<std::vector<double>> resampled_scores(const ProbeSamples& samples, const FromSequences& method,
                                                  int num_resamples, std::uint64_t seed) {
  std::map<int, std::vector<std::size_t>> members;  // of each source
  for (std::size_t n = 0; n < samples.num_sequences(); ++n) members[samples.sources[n]].push_back(n);
  std::vector<std::vector<double>> scores;
  std::uint64_t draw = 0;
  for (int r = 0; r < num_resamples; ++r) {
    std::vector<double> counts(samples.num_sequences());
    for (const auto& [source, sequences] : members)
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        const double u = random_uniform(seed, RandomStream::kBootstrap, draw++);
        counts[sequences[static_cast<std::size_t>(u * static_cast<double>(sequences.size()))]] += 1;
      }
    scores.push_back(method.scores(layer_means(samples, method.measure, counts)));
  }
  return scores;
}

std::vector<int> lowest(std::span<const double> scores, int k) {
  ADEPT_CHECK(k >= 0 && k <= std::ssize(scores), "{} of {} scores", k, scores.size());
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    const double x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
    return x != y ? x < y : a > b;
  });
  order.resize(static_cast<std::size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

double spearman(std::span<const double> a, std::span<const double> b) {
  ADEPT_CHECK(a.size() == b.size() && !a.empty(), "{} and {} values", a.size(), b.size());
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double middle = 0.5 * (static_cast<double>(a.size()) + 1);
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - middle) * (y[i] - middle);
    xx += (x[i] - middle) * (x[i] - middle);
    yy += (y[i] - middle) * (y[i] - middle);
  }
  return xy / std::sqrt(xx * yy);
}

}  // namespace adept::method
