#include "cli/failure.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <new>
#include <system_error>
#include <vector>

#include "adept/core/error.h"
#include "tests/support/reads.h"

namespace adept::cli {
namespace {

using adept::test::Reads;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

template <typename Throw>
Failure failure_of(Throw do_throw) {
  try {
    do_throw();
  } catch (...) {
    return describe_failure(std::current_exception());
  }
  return {-1, "nothing was thrown"};
}

TEST(Failure, OwnErrorsKeepTheirMessageAndExitCode) {
  const auto check = [](const Failure& failure, int exit_code, const std::string& message) {
    EXPECT_EQ(failure.exit_code, exit_code);
    EXPECT_EQ(failure.message, message);
  };
  check(failure_of([] { throw ConfigError("a\nb"); }), 2, "a\nb");
  check(failure_of([] { throw DataError("a"); }), 1, "a");
  check(failure_of([] { throw NonFiniteError("a"); }), 3, "a");
  check(failure_of([] { throw InterruptedError("a", ExitCode::kInterrupted); }), 130, "a");
  check(failure_of([] { throw InterruptedError("a", ExitCode::kTerminated); }), 143, "a");
}

TEST(Failure, BrokenInvariantsAskForAReport) {
  const Failure failure = failure_of([] { ADEPT_CHECK(1 > 2, "one is {}", 1); });
  EXPECT_EQ(failure.exit_code, 1);
  EXPECT_THAT(failure.message, HasSubstr("one is 1 (1 > 2)"));
  EXPECT_THAT(failure.message, HasSubstr("report this"));
}

TEST(Failure, OutOfMemoryIsRecognisedWhoeverFoundIt) {
  const std::vector<Failure> failures = {
      failure_of([] { throw std::bad_alloc(); }),
      failure_of([] { (void)at::empty({std::int64_t{1} << 50}, at::kFloat); }),
      failure_of([] { TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate 2 GiB"); }),
  };
  for (const Failure& failure : failures) {
    EXPECT_EQ(failure.exit_code, 4);
    EXPECT_THAT(failure.message, StartsWith("out of memory: "));
    EXPECT_THAT(failure.message, HasSubstr("smaller batch size"));
    EXPECT_THAT(failure.message, Not(HasSubstr("\n")));
  }
}

TEST(Failure, LibtorchsMessagesLoseTheirStackTrace) {
  const Failure failure = failure_of([] { (void)at::mm(at::empty({2, 3}), at::empty({4, 5})); });
  EXPECT_EQ(failure.exit_code, 1);
  EXPECT_THAT(failure.message, StartsWith("libtorch: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"));
  EXPECT_THAT(failure.message, Not(HasSubstr("\n")));
}

TEST(Failure, SystemErrorsKeepTheirMessage) {
  const Failure disk = failure_of([] { throw std::system_error(ENOSPC, std::generic_category(), "standard output"); });
  EXPECT_EQ(disk.exit_code, 1);
  EXPECT_EQ(disk.message, "standard output: No space left on device");
}

TEST(Failure, OthersAreReportedAsUnexpected) {
  EXPECT_EQ(failure_of([] { throw std::out_of_range("vector"); }).message, "vector (unexpected: please report this)");
  EXPECT_EQ(failure_of([] { throw 5; }).message, "an exception of unknown type (please report this)");
  EXPECT_EQ(failure_of([] { throw 5; }).exit_code, 1);
}

/// Parses the words against a small program of two commands.
std::string usage_error(std::vector<const char*> words) {
  words.insert(words.begin(), "adept");
  CLI::App app{"test", "adept"};
  app.require_subcommand(0, 1);
  std::string model;
  int steps = 0;
  CLI::App* train = app.add_subcommand("train", "");
  train->add_option("--model", model)->required();
  train->add_option("--max-steps", steps);
  app.add_subcommand("expand", "");
  try {
    app.parse(static_cast<int>(words.size()), words.data());
  } catch (const CLI::ParseError& error) {
    const Failure failure = describe_usage_error(app, error, static_cast<int>(words.size()), words.data());
    EXPECT_EQ(failure.exit_code, 2);
    return failure.message;
  }
  return "no error";
}

TEST(UsageError, NamesTheWordAndTheNearestName) {
  EXPECT_THAT(usage_error({"trian"}), Reads("unknown command \"trian\"...\"train\"? See: adept --help"));
  EXPECT_EQ(usage_error({"frobnicate"}), "unknown command \"frobnicate\". See: adept --help");
  EXPECT_THAT(usage_error({"--hepl"}), Reads("unknown option \"--hepl\"...\"--help\"? See: adept --help"));
  EXPECT_THAT(usage_error({"train", "--modle", "x"}),
              Reads("unknown option \"--modle\" of adept train...\"--model\"? See: adept train --help"));
  EXPECT_THAT(usage_error({"train", "--model", "x", "--max-step=3"}),
              Reads("unknown option \"--max-step\" of adept train...\"--max-steps\"? See: adept train --help"));
  EXPECT_EQ(usage_error({"train", "--model", "x", "-q"}),
            "unknown option \"-q\" of adept train. See: adept train --help");
  // CLI11's own words, which its versions change
  EXPECT_THAT(usage_error({"train"}), AllOf(StartsWith("adept train: --model"), EndsWith(". See: adept train --help")));
  EXPECT_THAT(usage_error({"train", "--model"}), StartsWith("adept train: --model"));
  EXPECT_THAT(usage_error({"train", "--model", "x", "--max-steps", "many"}),
              AllOf(StartsWith("adept train: "), HasSubstr("--max-steps: found \"many\"; expected a number"),
                    HasSubstr("See: ")));
  EXPECT_THAT(usage_error({"train", "--model", "x", "stray"}),
              Reads("adept train: found \"stray\"; expected ...See: adept train --help"));
}

}  // namespace
}  // namespace adept::cli
