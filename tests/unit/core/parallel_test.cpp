#include "adept/core/parallel.h"

#include <gmock/gmock.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace adept {
namespace {

TEST(Parallel, EveryTaskRunsOnce) {
  for (const int threads : {0, 1, 3, 100})
    for (const std::int64_t count : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      for_each_in_parallel(count, threads, [&](std::int64_t i) { ++calls[static_cast<std::size_t>(i)]; });
      for (const auto& each : calls) ASSERT_EQ(each, 1) << threads << " threads, " << count << " tasks";
    }
}

TEST(Parallel, AnExceptionEndsItAndReachesTheCaller) {
  for (const int threads : {1, 4}) {
    std::atomic<std::int64_t> calls = 0;
    const auto task = [&](std::int64_t i) {
      ++calls;
      if (i == 3) throw std::runtime_error("task 3");
    };
    EXPECT_THROW(for_each_in_parallel(1'000'000, threads, task), std::runtime_error);
    EXPECT_GE(calls, 4);
    EXPECT_LT(calls, 1'000'000);
  }
}

}  // namespace
}  // namespace adept
