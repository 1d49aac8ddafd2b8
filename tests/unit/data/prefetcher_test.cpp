#include "adept/data/prefetcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "adept/core/error.h"
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

/// Ten documents of ten ids, of which those after a number of reads are damaged.
class DamagedStorage : public TokenStorage {
 public:
  std::int64_t document_tokens(std::int64_t) const override { return 10; }
  std::int64_t document_bytes(std::int64_t) const override { return 10; }
  std::int32_t last_token(std::int64_t) const override { return 5; }
  Untrained untrained(std::int64_t) const override { return {}; }
  bool has_untrained() const override { return false; }
  void read(std::int64_t i, std::int64_t, std::span<std::int32_t> out) const override {
    if (num_reads++ >= 6) throw DataError("document {} is damaged", i);
    std::fill(out.begin(), out.end(), 5);
  }

  mutable std::atomic<int> num_reads = 0;
};

TEST(Prefetcher, ThrowsWhatReadingAheadThrewAtTheStepThatNeedsIt) {
  const TokenDataset dataset({.name = "a", .vocab_size = 10, .counts = {.documents = 10, .tokens = 100}}, "a",
                             std::make_shared<DamagedStorage>());
  TrainLoader loader({{.dataset = dataset}}, {.seq_len = 10});
  Prefetcher prefetcher(loader);
  for (int step = 0; step < 3; ++step) EXPECT_EQ(prefetcher.next_step(2, 20).size(), 2U) << "documents 0 to 5";
  const Json state = loader.state();
  EXPECT_THROW(prefetcher.next_step(2, 20), DataError);
  EXPECT_EQ(loader.state(), state) << "what was not given does not count";
}

}  // namespace
}  // namespace adept::data
