#include "adept/core/child_process.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

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

TEST(ChildProcess, EndsWithAParentThatIsKilled) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t parent = fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    const auto forever = [&]() -> std::string {
      if (write(ends[1], "x", 1) == 1) pause();
      return "never";
    };
    run_in_child(forever, 100);
  }
  close(ends[1]);
  char byte = 0;
  ASSERT_EQ(read(ends[0], &byte, 1), 1) << "the child is at work";
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  pollfd polled = {ends[0], POLLIN, 0};
  EXPECT_EQ(poll(&polled, 1, /*milliseconds=*/20'000), 1)
      << "the child has the other end, as it has the parent's locks";
  EXPECT_EQ(read(ends[0], &byte, 1), 0);
  close(ends[0]);
}

}  // namespace
}  // namespace adept
