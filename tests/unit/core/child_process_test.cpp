#include "adept/core/child_process.h"

#include <gmock/gmock.h>

#include <csignal>
#include <cstdlib>
#include <string>

namespace adept {
namespace {

using ::testing::ThrowsMessage;

TEST(ChildProcess, GivesBackTheResultHoweverLong) {
  const std::string parent = "of the parent";
  EXPECT_EQ(run_in_child([&] { return "text " + parent; }, 10), "text of the parent");
  EXPECT_EQ(run_in_child([] { return std::string(); }, 10), "");
  const std::string zeros(3'000'000, '\0');  // more than a pipe holds
  EXPECT_EQ(run_in_child([&] { return zeros; }, 10), zeros);
}

TEST(ChildProcess, EndsAloneHoweverItEnds) {
  EXPECT_THAT([] { run_in_child([]() -> std::string { std::_Exit(3); }, 10); },
              ThrowsMessage<ChildFailure>("ended with the exit code 3"));
  EXPECT_THAT(([] {
                run_in_child(
                    []() -> std::string {
                      std::raise(SIGTERM);
                      return "never";
                    },
                    10);
              }),
              ThrowsMessage<ChildFailure>("ended with the signal 15"));
  const auto loop = []() -> std::string {
    volatile bool forever = true;
    while (forever) {
    }
    return "never";
  };
  EXPECT_THAT([&] { run_in_child(loop, 1); },
              ThrowsMessage<ChildFailure>("took more than 1 s of processor time, or was killed"));
}

}  // namespace
}  // namespace adept
