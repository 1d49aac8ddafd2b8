#include "adept/method/statistics.h"

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

TEST(WeightedMean, IsTheSumOverTheSumOfWeights) {
  const std::vector<double> totals = {2, 9, 4}, weights = {1, 3, 2};
  EXPECT_DOUBLE_EQ(weighted_mean(totals, weights), 2.5);
}

TEST(WeightedMeanInterval, IsTheRatioEstimatorsByHand) {
  // Residuals 2 - 2.5, 9 - 7.5, 4 - 5: squares sum to 3.5; sqrt(3.5 * 3/2) / 6 = 0.3818813; times t(2) = 4.3026527.
  const std::vector<double> totals = {2, 9, 4}, weights = {1, 3, 2};
  const auto [low, high] = weighted_mean_ci95(totals, weights);
  EXPECT_NEAR(low, 2.5 - 1.6431027, 1e-6);
  EXPECT_NEAR(high, 2.5 + 1.6431027, 1e-6);
}

TEST(WeightedMeanInterval, WithEqualWeightsIsThatOfAPlainMean) {
  // Mean 2.5, standard deviation 1.2909944, n = 4, t(3) = 3.1824463.
  const std::vector<double> totals = {1, 2, 3, 4}, weights = {1, 1, 1, 1};
  const auto [low, high] = weighted_mean_ci95(totals, weights);
  EXPECT_NEAR(low, 2.5 - 3.1824463 * 1.2909944 / 2, 1e-6);
  EXPECT_NEAR(high, 2.5 + 3.1824463 * 1.2909944 / 2, 1e-6);
}

TEST(WeightedMeanInterval, HasNoWidthWhereEveryTokenIsAlike) {
  const std::vector<double> totals = {3, 12, 1.5}, weights = {2, 8, 1};
  const auto [low, high] = weighted_mean_ci95(totals, weights);
  EXPECT_DOUBLE_EQ(low, 1.5);
  EXPECT_DOUBLE_EQ(high, 1.5);
}

TEST(WeightedMeanInterval, OfOneSequenceIsEverything) {
  const std::vector<double> totals = {3}, weights = {2};
  const auto [low, high] = weighted_mean_ci95(totals, weights);
  EXPECT_EQ(low, -std::numeric_limits<double>::infinity());
  EXPECT_EQ(high, std::numeric_limits<double>::infinity());
}

TEST(WeightedMeanInterval, NeedsAWeightForEachTotal) {
  const std::vector<double> totals = {3, 4}, weights = {2};
  EXPECT_THROW(weighted_mean_ci95(totals, weights), InternalError);
}

}  // namespace
}  // namespace adept::method
