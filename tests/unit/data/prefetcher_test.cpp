#include "adept/data/prefetcher.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "data_test_util.h"

namespace adept::data {
namespace {

TrainLoader two_sources_to_prefetch() {
  const std::vector<std::int64_t> lengths = {5, 9, 30, 4, 17, 2, 8, 8, 25, 1, 40};
  return TrainLoader({{.dataset = counting_dataset("a", lengths), .weight = 3},
                      {.dataset = counting_dataset("b", lengths, 100'000), .weight = 1}},
                     {.seq_len = 8, .eos = 0, .seed = 3});
}

TEST(Prefetcher, GivesWhatTheLoaderGivesAndLeavesItAtTheSamePosition) {
  for (const std::int64_t size : {1, 3, 7}) {
    TrainLoader loader = two_sources_to_prefetch(), expected = two_sources_to_prefetch();
    Prefetcher prefetcher(loader);
    for (std::int64_t last = 100; expected.num_sequences() < last;) {
      const std::int64_t wanted = std::min(size, last - expected.num_sequences());
      ASSERT_EQ(prefetcher.next_step(wanted, last), expected.next_step(wanted));
      ASSERT_EQ(loader.state(), expected.state());
    }
    EXPECT_GT(loader.epochs(0), 2) << "the test crosses epochs";
  }
}

TEST(Prefetcher, ReadsManyEpochsOfASmallSourceAhead) {
  for (const std::int64_t length : {8, 16, 24}) {  // of one to three sequences
    const auto make = [&] {
      return TrainLoader({{.dataset = counting_dataset("a", {length})}}, {.seq_len = 8, .seed = 3});
    };
    TrainLoader loader = make(), expected = make();
    Prefetcher prefetcher(loader);
    for (int step = 0; step < 20; ++step) ASSERT_EQ(prefetcher.next_step(7, 140), expected.next_step(7)) << step;
    EXPECT_GE(loader.epochs(0), 46);
  }
}

TEST(Prefetcher, GivesStepsOfOtherSizesThanItExpected) {
  TrainLoader loader = two_sources_to_prefetch(), expected = two_sources_to_prefetch();
  Prefetcher prefetcher(loader);
  for (const std::int64_t size : {4, 4, 1, 6, 6, 2, 9, 4})
    EXPECT_EQ(prefetcher.next_step(size, 1000), expected.next_step(size));
}

TEST(Prefetcher, ReadsNothingBeyondTheLastSequence) {
  TrainSource limited{.dataset = counting_dataset("a", {40})};
  limited.epochs = 1;
  TrainLoader loader({limited}, {.seq_len = 8});
  Prefetcher prefetcher(loader);
  EXPECT_EQ(prefetcher.next_step(2, 5).size(), 2U);
  EXPECT_EQ(prefetcher.next_step(2, 5).size(), 2U);
  EXPECT_EQ(prefetcher.next_step(1, 5).size(), 1U);
  EXPECT_EQ(loader.num_sequences(), 5);
}

}  // namespace
}  // namespace adept::data
