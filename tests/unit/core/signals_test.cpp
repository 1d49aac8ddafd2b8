#include "adept/core/signals.h"

#include <gtest/gtest.h>

#include <csignal>

namespace adept {
namespace {

TEST(Signals, ASignalOfAnotherProcessDoesNotMakeTheFirstOneOfThisProcessTheSecond) {
  const auto take_and_raise = [](int num_raised) {
    install_signal_handlers();
    take_signal(SIGTERM);
    for (int i = 0; i < num_raised; ++i) std::raise(SIGTERM);
    std::_Exit(pending_signal());
  };
  EXPECT_EXIT(take_and_raise(0), testing::ExitedWithCode(SIGTERM), "");
  EXPECT_EXIT(take_and_raise(1), testing::ExitedWithCode(SIGTERM), "");
  EXPECT_EXIT(take_and_raise(2), testing::ExitedWithCode(kSignalExitCode + SIGTERM), "");
}

}  // namespace
}  // namespace adept
