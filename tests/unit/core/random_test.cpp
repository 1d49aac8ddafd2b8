#include "adept/core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <vector>

namespace adept {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

// Computed by a separate program from the definition of SplitMix64; checkpoints depend on these values.
TEST(Random, BitsHaveTheirGoldenValues) {
  EXPECT_EQ(random_bits(0, RandomStream::kDocumentOrder, 0), 0x44e5b98100c67fb0ULL);
  EXPECT_EQ(random_bits(0, RandomStream::kDocumentOrder, 1), 0x465391958fc61f13ULL);
  EXPECT_EQ(random_bits(42, RandomStream::kSampling, 7), 0xef5e260bc49c3c6fULL);
  EXPECT_EQ(random_bits(kMax, RandomStream::kUnitProbe, kMax), 0xcbaa79e11f303fa4ULL);
  EXPECT_EQ(random_uniform(42, RandomStream::kBootstrap, 5), 0.6668963991917505);
}

TEST(Random, ShuffleHasItsGoldenValues) {
  std::vector<std::int64_t> values(10);
  std::iota(values.begin(), values.end(), 0);
  auto other = values;
  random_shuffle(values, 42, RandomStream::kDocumentOrder, 0);
  EXPECT_EQ(values, (std::vector<std::int64_t>{9, 0, 8, 7, 4, 3, 1, 2, 6, 5}));
  random_shuffle(other, 42, RandomStream::kDocumentOrder, 1);
  EXPECT_EQ(other, (std::vector<std::int64_t>{4, 1, 7, 5, 3, 0, 6, 8, 2, 9}));
}

TEST(Random, SeedStreamAndCounterAllMatter) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 10; ++seed)
    for (const auto stream : {RandomStream::kDocumentOrder, RandomStream::kSampling, RandomStream::kBootstrap})
      for (std::uint64_t counter = 0; counter < 100; ++counter) seen.insert(random_bits(seed, stream, counter));
  EXPECT_EQ(seen.size(), 3000U);
}

TEST(Random, UniformFillsTheUnitIntervalEvenly) {
  constexpr int kDraws = 100'000, kBins = 20;
  std::array<int, kBins> bins = {};
  for (int i = 0; i < kDraws; ++i) {
    const double u = random_uniform(7, RandomStream::kSampling, static_cast<std::uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++bins[static_cast<std::size_t>(u * kBins)];
  }
  double chi2 = 0;
  const double expected = static_cast<double>(kDraws) / kBins;
  for (const int count : bins) chi2 += (count - expected) * (count - expected) / expected;
  EXPECT_LT(chi2, 43.8);  // 99.9 % quantile, 19 degrees of freedom
}

TEST(Random, ShuffleGivesEveryPermutationEquallyOften) {
  constexpr int kShuffles = 120'000;
  std::map<std::vector<std::int64_t>, int> counts;
  for (int salt = 0; salt < kShuffles; ++salt) {
    std::vector<std::int64_t> values = {0, 1, 2, 3, 4};
    random_shuffle(values, 3, RandomStream::kDocumentOrder, static_cast<std::uint64_t>(salt));
    ++counts[values];
  }
  ASSERT_EQ(counts.size(), 120U);
  double chi2 = 0;
  for (const auto& [values, count] : counts) chi2 += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi2, 173.6);  // 99.9 % quantile, 119 degrees of freedom
}

TEST(Random, ShuffleKeepsTheValuesAndAcceptsNone) {
  std::vector<std::int64_t> none;
  random_shuffle(none, 1, RandomStream::kDocumentOrder, 0);
  EXPECT_TRUE(none.empty());
  std::vector<std::int64_t> values(1000);
  std::iota(values.begin(), values.end(), 5);
  const auto sorted = values;
  random_shuffle(values, 1, RandomStream::kDocumentOrder, 0);
  EXPECT_NE(values, sorted);
  std::sort(values.begin(), values.end());
  EXPECT_EQ(values, sorted);
}

}  // namespace
}  // namespace adept
