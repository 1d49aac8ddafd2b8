#include "adept/core/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace adept {
namespace {

TEST(Progress, CountsTheTimeOfItsOwnSteps) {
  EXPECT_EQ(detail::seconds_left(6, 0, 60, 100), 4);
  EXPECT_EQ(detail::seconds_left(6, 50, 60, 100), 24) << "50 were done by an earlier process";
}

TEST(Progress, SaysHowFarItIs) {
  testing::internal::CaptureStderr();
  {
    Progress progress("train", 1200, {.counts = "steps", .rate_unit = "", .plain_interval = 0, .start = 1000});
    progress.update(1060, 0, "loss 1.5");
    progress.finish();
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, testing::ContainsRegex("train      1,060/1,200 steps  loss 1.5  [0-9:]+ left\n"));
  EXPECT_THAT(text, testing::ContainsRegex("train      1,200/1,200 steps  loss 1.5  in [0-9:]+\n"));
}

TEST(FormatBytes, RoundsBytesForPeople) {
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.0 kB");
  EXPECT_EQ(format_bytes(999'999), "1.0 MB");
  EXPECT_EQ(format_bytes(2'500'000'000), "2.5 GB");
}

}  // namespace
}  // namespace adept
