// What a user gets to see: numbers, progress lines, log lines, errors and signals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <limits>

#include "adept/core/dtype.h"
#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/core/signals.h"
#include "tests/support/reads.h"

namespace adept {
namespace {

using adept::test::Reads;
using testing::HasSubstr;
using testing::internal::CaptureStderr;
using testing::internal::GetCapturedStderr;

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(65.4), "1:05");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(7389), "2:03:09");
  EXPECT_EQ(format_duration(360'000), "100:00:00");
  EXPECT_EQ(format_duration(-5), "0:00");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::quiet_NaN()), "0:00");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), format_duration(1e12));
}

TEST(Format, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-123), "-123");
  EXPECT_EQ(format_count(-1234), "-1,234");
  EXPECT_EQ(format_count(std::numeric_limits<std::int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(Progress, WritesPlainLinesToAPipe) {
  CaptureStderr();
  Progress progress("eval", 1200, {.counts = "sequences", .source = "step 8, wiki", .plain_interval = 0});
  progress.update(300, 5000, "loss 2.931");
  progress.update(1200, 20'000, "loss 2.5");
  progress.finish("loss 2.4");
  progress.finish("never shown");
  const std::string text = GetCapturedStderr();
  EXPECT_THAT(text, testing::MatchesRegex(
                        "eval       step 8, wiki  300/1,200 sequences  [0-9,]+ tok/s  loss 2.931  [0-9:]+ left\n"
                        "eval       step 8, wiki  1,200/1,200 sequences  [0-9,]+ tok/s  loss 2.4  in 0:00\n"))
      << "one last line, with one loss";
}

TEST(Progress, IsALineAMinuteWithoutATerminal) { EXPECT_EQ(Progress::Options().plain_interval, 60); }

TEST(Progress, EndsAtItsTotal) {
  CaptureStderr();
  Progress cut_short("dial", 1000, {.counts = "passes"});
  cut_short.update(17);
  cut_short.set_total(17);
  cut_short.finish();
  Progress counted_by_file("tokenize", 12'345'678, {.counts = "bytes", .source = "notes"});
  counted_by_file.update(12'000'000);
  counted_by_file.finish();
  Progress small("tokenize", 4567, {.counts = "bytes"});
  small.finish();
  EXPECT_THAT(GetCapturedStderr(), testing::MatchesRegex("dial       17/17 passes  in 0:00\n"
                                                         "tokenize   notes  12/12 MB  [0-9.]+ .?B/s  in 0:00\n"
                                                         "tokenize   5/5 kB  [0-9.]+ .?B/s  in 0:00\n"));
}

TEST(Progress, OfAPartThatComesOftenHasNoLastLine) {
  CaptureStderr();
  Progress progress("importance", 8, {.counts = "batches", .plain_interval = 0, .is_passing = true});
  progress.update(3);
  progress.update(8);
  progress.finish();
  EXPECT_EQ(GetCapturedStderr().find("8/8"), std::string::npos);
}

TEST(Progress, IsHiddenWithOtherInformation) {
  CaptureStderr();
  init_logging();
  set_quiet();
  Progress progress("read", 3, {.plain_interval = 0});
  progress.update(1);
  progress.finish();
  log_info("hidden");
  log_table("hidden\n");
  log_warning("shown");
  EXPECT_EQ(GetCapturedStderr(), "warning: shown\n");
  CaptureStderr();
  init_logging();
  log_table("a table\nof two lines\n");
  EXPECT_EQ(GetCapturedStderr(), "a table\nof two lines\n");
}

TEST(Progress, KeepsQuietBetweenIntervalsAndWhenAsked) {
  CaptureStderr();
  {
    Progress progress("read", 0, {.plain_interval = 1000});
    for (int i = 0; i < 100; ++i) progress.update(i);
    Progress::silent().update(5);
    Progress::silent().finish();
  }
  EXPECT_EQ(GetCapturedStderr(), "");
}

TEST(Progress, ShowsACountWithoutATotal) {
  CaptureStderr();
  Progress progress("read", 0, {.counts = "documents", .rate_unit = "", .plain_interval = 0});
  progress.update(12'345, 99);
  EXPECT_EQ(GetCapturedStderr(), "read       12,345 documents\n");
}

TEST(Log, PrefixesWarningsAndReportsAWrongLevel) {
  ASSERT_EQ(setenv("ADEPT_LOG", "loud", 1), 0);
  CaptureStderr();
  init_logging();
  log_info("shown");
  log_warning("careful");
  log_error("broken");
  EXPECT_THAT(GetCapturedStderr(), Reads("warning: ADEPT_LOG ...\"loud\"; expected info, warn, error or off...\n"
                                         "shown\nwarning: careful\nerror: broken\n"));
  ASSERT_EQ(setenv("ADEPT_LOG", "error", 1), 0);
  CaptureStderr();
  init_logging();
  log_warning("hidden");
  log_error("shown");
  EXPECT_EQ(GetCapturedStderr(), "error: shown\n");
  unsetenv("ADEPT_LOG");
  init_logging();
}

TEST(Error, KindsHaveTheirExitCodes) {
  EXPECT_EQ(ConfigError("{} {}", "a", 1).exit_code(), ExitCode::kUsage);
  EXPECT_EQ(DataError("x").exit_code(), ExitCode::kFailure);
  EXPECT_EQ(NonFiniteError("x").exit_code(), ExitCode::kNonFinite);
  EXPECT_STREQ(ConfigError("{} {}", "a", 1).what(), "a 1");
  EXPECT_STREQ(DataError("a brace { and {} stay").what(), "a brace { and {} stay");
}

TEST(Error, AFailedCheckNamesPlaceAndCondition) {
  try {
    const int found = 3;
    ADEPT_CHECK(found == 2, "found {}", found);
    FAIL() << "not reached";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(HasSubstr("messages_test.cpp"), HasSubstr("found 3"), HasSubstr("found == 2")));
  }
}

TEST(DType, NamesAndSizesAgree) {
  for (int i = 0; i <= static_cast<int>(DType::kF8E5M2); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_safetensors_name(safetensors_name(dtype)), dtype);
  }
  EXPECT_EQ(dtype_size(DType::kBF16), 2U);
  EXPECT_EQ(dtype_size(DType::kF8E5M2), 1U);
  EXPECT_EQ(dtype_size(DType::kF64), 8U);
  EXPECT_EQ(dtype_from_safetensors_name("f32"), std::nullopt);
  EXPECT_EQ(compute_dtype_from_string("bfloat16"), ComputeDType::kBf16);
  EXPECT_EQ(compute_dtype_from_string("fp16"), std::nullopt);
}

TEST(SignalsDeathTest, TheFirstAsksAndTheSecondEnds) {
  const auto first = [] {
    install_signal_handlers();
    std::raise(SIGTERM);
    if (pending_signal() != SIGTERM) std::_Exit(1);
    try {
      throw_if_interrupted();
    } catch (const InterruptedError& error) {
      std::_Exit(static_cast<int>(error.exit_code()));
    }
  };
  EXPECT_EXIT(first(), testing::ExitedWithCode(143), "");
  const auto second = [] {
    install_signal_handlers();
    std::raise(SIGTERM);
    std::raise(SIGINT);
  };
  EXPECT_EXIT(second(), testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace adept
