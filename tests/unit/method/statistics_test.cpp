#include "adept/method/beyond/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "adept/core/error.h"

namespace adept::method {
namespace {

TEST(StudentT, GivesTheQuantilesOfPublishedTables) {
  // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975.
  const std::vector<std::pair<int, double>> table = {{1, 12.706}, {2, 4.303},  {3, 3.182},  {4, 2.776},
                                                     {5, 2.571},  {9, 2.262},  {10, 2.228}, {29, 2.045},
                                                     {30, 2.042}, {60, 2.000}, {99, 1.984}, {100, 1.984}};
  for (const auto& [n, quantile] : table) EXPECT_NEAR(student_t_975(n), quantile, 5.1e-4) << n;
  EXPECT_NEAR(student_t_975(120), 1.980, 5.1e-4);
}

TEST(StudentT, FallsMonotonicallyToTheNormalQuantile) {
  double previous = std::numeric_limits<double>::infinity();
  for (const int n : {1, 2, 3, 4, 7, 20, 21, 100, 1'000, 9'999, 10'000, 10'001}) {
    const double quantile = student_t_975(n);
    EXPECT_LT(quantile, previous) << n;
    EXPECT_GE(quantile, 1.959963984540054) << n;
    previous = quantile;
  }
  EXPECT_NEAR(student_t_975(10'000), 1.95996, 3e-4);
  EXPECT_EQ(student_t_975(2'000'000'000), student_t_975(10'001));
}

TEST(StudentT, HasNoQuantileWithoutADegreeOfFreedom) { EXPECT_THROW(student_t_975(0), InternalError); }

StratifiedTotals sample(const std::vector<double>& totals, const std::vector<double>& tokens,
                        const std::vector<int>& sources = {}) {
  return {.totals = totals, .tokens = tokens, .sources = sources, .weights = {}};
}

TEST(TokenMean, IsTheSumOverTheSumOfTokensAndSourcesWeighTheSame) {
  const std::vector<double> totals = {2, 9, 4}, tokens = {1, 3, 2};
  EXPECT_DOUBLE_EQ(token_mean(sample(totals, tokens)), 2.5);
  const std::vector<int> sources = {0, 1, 1};
  EXPECT_DOUBLE_EQ(token_mean(sample(totals, tokens, sources)), 0.5 * (2.0 + 13.0 / 5.0));
}

TEST(MeanFactors, WeighSourcesAndLeaveOutThoseThatDoNotCount) {
  const std::vector<double> tokens = {2, 3, 5}, counts = {0, 2, 1};
  const std::vector<int> sources = {0, 1, 1};
  const std::map<int, double> weights = {{0, 1}, {1, 3}};
  TextItems items{.tokens = tokens, .sources = sources, .weights = weights, .counts = {}};
  EXPECT_EQ(mean_factors(items), (std::vector<double>{0.25 / 2, 0.75 / 8, 0.75 / 8}));
  items.counts = counts;
  EXPECT_EQ(mean_factors(items), (std::vector<double>{0, 2 * (1.0 / 11), 1.0 / 11}));
}

TEST(TokenMeanInterval, IsTheRatioEstimatorsByHand) {
  // Residuals 2 - 2.5, 9 - 7.5, 4 - 5: squares sum to 3.5; sqrt(3.5 * 3/2) / 6 = 0.3818813; times t(2) = 4.3026527.
  const std::vector<double> totals = {2, 9, 4}, tokens = {1, 3, 2};
  const auto [low, high] = token_mean_ci95(sample(totals, tokens));
  EXPECT_NEAR(low, 2.5 - 1.6431027, 1e-6);
  EXPECT_NEAR(high, 2.5 + 1.6431027, 1e-6);
}

TEST(TokenMeanInterval, WithEqualTokensIsThatOfAPlainMean) {
  // Mean 2.5, standard deviation 1.2909944, n = 4, t(3) = 3.1824463.
  const std::vector<double> totals = {1, 2, 3, 4}, tokens = {1, 1, 1, 1};
  const auto [low, high] = token_mean_ci95(sample(totals, tokens));
  EXPECT_NEAR(low, 2.5 - 3.1824463 * 1.2909944 / 2, 1e-6);
  EXPECT_NEAR(high, 2.5 + 3.1824463 * 1.2909944 / 2, 1e-6);
}

TEST(TokenMeanInterval, OfTwoSourcesAddsTheirVariances) {
  // Means 2 and 12, standard errors 1 and 2 (two values each): half of sqrt(5), t(2) = 4.3026527.
  const std::vector<double> totals = {1, 3, 10, 14}, tokens = {1, 1, 1, 1};
  const std::vector<int> sources = {0, 0, 1, 1};
  const auto [low, high] = token_mean_ci95(sample(totals, tokens, sources));
  EXPECT_NEAR(low, 7 - 4.3026527 * std::sqrt(5.0) / 2, 1e-6);
  EXPECT_NEAR(high, 7 + 4.3026527 * std::sqrt(5.0) / 2, 1e-6);
}

TEST(TokenMeanInterval, HasNoWidthWhereEveryTokenIsAlike) {
  const std::vector<double> totals = {3, 12, 1.5}, tokens = {2, 8, 1};
  const auto [low, high] = token_mean_ci95(sample(totals, tokens));
  EXPECT_DOUBLE_EQ(low, 1.5);
  EXPECT_DOUBLE_EQ(high, 1.5);
}

TEST(TokenMeanInterval, OfASourceWithOneSequenceIsEverything) {
  const std::vector<double> totals = {3, 4, 5}, tokens = {2, 2, 2};
  const std::vector<int> sources = {0, 0, 1};
  const auto [low, high] = token_mean_ci95(sample(totals, tokens, sources));
  EXPECT_EQ(low, -std::numeric_limits<double>::infinity());
  EXPECT_EQ(high, std::numeric_limits<double>::infinity());
}

TEST(TokenMeanInterval, NeedsTokensForEachTotal) {
  const std::vector<double> totals = {3, 4}, tokens = {2};
  EXPECT_THROW(token_mean_ci95(sample(totals, tokens)), InternalError);
}

TEST(Lowest, AreTheLowestByIndexAndOfEqualScoresTheLater) {
  const std::vector<double> scores = {0.3, 0.1, 0.2, 0.1, 0.2};
  EXPECT_EQ(lowest(scores, 0), (std::vector<int>{}));
  EXPECT_EQ(lowest(scores, 1), (std::vector<int>{3}));
  EXPECT_EQ(lowest(scores, 3), (std::vector<int>{1, 3, 4}));
  EXPECT_EQ(lowest(scores, 5), (std::vector<int>{0, 1, 2, 3, 4}));
  EXPECT_THROW(lowest(scores, 6), InternalError);
}

TEST(Spearman, IsThePublishedExampleAndSharesTheRanksOfTies) {
  // IQ and hours of television of ten people, Wikipedia, "Spearman's rank correlation coefficient": -29/165.
  const std::vector<double> iq = {106, 100, 86, 101, 99, 103, 97, 113, 112, 110};
  const std::vector<double> hours = {7, 27, 2, 50, 28, 29, 20, 12, 6, 17};
  EXPECT_NEAR(spearman(iq, hours), -29.0 / 165, 1e-12);
  const std::vector<double> a = {1, 2, 2, 3}, b = {10, 20, 20, 30}, reversed = {3, 2, 2, 1};
  EXPECT_DOUBLE_EQ(spearman(a, b), 1);
  EXPECT_DOUBLE_EQ(spearman(a, reversed), -1);
}

}  // namespace
}  // namespace adept::method
