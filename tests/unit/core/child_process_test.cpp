#include "adept/core/child_process.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <new>
#include <string>

namespace adept {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr ChildLimits kLimits = {.seconds = 10, .memory = 100'000'000};

TEST(ChildProcess, GivesBackTheResultHoweverLong) {
  const std::string parent = "of the parent";
  EXPECT_EQ(run_in_child([&] { return "text " + parent; }, kLimits), "text of the parent");
  EXPECT_EQ(run_in_child([] { return std::string(); }, kLimits), "");
  const std::string zeros(3'000'000, '\0');  // more than a pipe holds
  EXPECT_EQ(run_in_child([&] { return zeros; }, kLimits), zeros);
}

TEST(ChildProcess, EndsAloneHoweverItEnds) {
  EXPECT_THAT([] { run_in_child([]() -> std::string { std::_Exit(3); }, kLimits); },
              ThrowsMessage<ChildFailure>(HasSubstr("exited with code 3")));
  EXPECT_THAT(([] {
                run_in_child(
                    []() -> std::string {
                      std::raise(SIGTERM);
                      return "never";
                    },
                    kLimits);
              }),
              ThrowsMessage<ChildFailure>(HasSubstr("by signal 15")));
  const auto loop = []() -> std::string {
    volatile bool forever = true;
    while (forever) {
    }
    return "never";
  };
  EXPECT_THAT([&] { run_in_child(loop, {.seconds = 1, .memory = kLimits.memory}); },
              ThrowsMessage<ChildFailure>(HasSubstr("more than 1 s of CPU time")));
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
    run_in_child(forever, {.seconds = 100, .memory = kLimits.memory});
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

TEST(ChildProcess, HasSoMuchMemoryBesideThatOfTheParent) {
  const std::string large(300'000'000, 'x');  // of the parent
  EXPECT_EQ(run_in_child([] { return std::string(1'000'000, 'x'); }, kLimits).size(), 1'000'000u);
  // As `new` does it, which sanitizers replace: theirs needs memory to report that there is none.
  const auto grow = []() -> std::string {
    while (mmap(nullptr, 1'000'000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) {
    }
    std::get_new_handler()();
    return "never";
  };
  EXPECT_THAT([&] { run_in_child(grow, kLimits); },
              ThrowsMessage<ChildFailure>(HasSubstr("more than 100 MB of memory")));
}

}  // namespace
}  // namespace adept
