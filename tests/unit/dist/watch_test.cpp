#include "adept/dist/watch.h"

#include <c10/util/Exception.h>
#include <gmock/gmock.h>

#include <poll.h>

#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "adept/core/signals.h"
#include "adept/dist/store.h"
#include "processes.h"
#include "tests/support/captured_log.h"

namespace adept::dist {
namespace {

using std::chrono::milliseconds;
using test::Outcome;
using testing::AllOf;
using testing::HasSubstr;

constexpr GroupOptions kLong = {.timeout = 60};  // nobody may wait for it
constexpr double kSoon = 10;                     // seconds

/// Fails before it joins, as run_program then tells the others.
std::string fail_before_joining(const Launch& launch) {
  expect_to_join(launch);
  fail("run.yaml: bad key", 2);
  throw ConfigError("run.yaml: bad key");
}

TEST(Failure, BeforeJoiningEndsEveryRankWithItsExitCode) {
  for (const int failing : {0, 1, 2}) {
    const std::uint16_t port = test::free_port();
    std::vector<std::unique_ptr<test::Process>> processes;
    for (int rank = 0; rank < 3; ++rank)
      processes.push_back(std::make_unique<test::Process>([=] {
        const Launch launch = test::launch_of(rank, 3, port);
        if (rank == failing) return fail_before_joining(launch);
        return test::run_rank(launch, kLong, [](ProcessGroup&) { return "ok"; });
      }));
    for (int rank = 0; rank < 3; ++rank) {
      const Outcome outcome = processes[static_cast<std::size_t>(rank)]->wait();
      EXPECT_EQ(outcome.exit_code, 2);
      EXPECT_LT(outcome.seconds, kSoon);
      EXPECT_EQ(outcome.text,
                rank == failing ? "run.yaml: bad key" : fmt::format("rank {} ended: run.yaml: bad key", failing));
    }
  }
}

TEST(Failure, OfAProcessThatTheJobDoesNotLackIsNotThatOfTheJob) {
  const std::uint16_t port = test::free_port();
  const auto strangers_fail = [=] {
    for (const auto& [rank, size] : {std::pair(1, 2), std::pair(LaunchError::kUnknownRank, 2),
                                     std::pair(1, LaunchError::kUnknownSize), std::pair(5, LaunchError::kUnknownSize)})
      test::Process([=] { return fail_before_joining(test::launch_of(rank, size, port)); }).wait();
  };
  std::vector<std::unique_ptr<test::Process>> processes;
  for (int rank = 0; rank < 2; ++rank)
    processes.push_back(std::make_unique<test::Process>([=] {
      return test::run_rank(test::launch_of(rank, 2, port), kLong, [=](ProcessGroup& group) {
        group.barrier();
        if (rank == 1) strangers_fail();
        group.barrier();
        return "ok";
      });
    }));
  for (const auto& process : processes) EXPECT_EQ(process->wait().text, "ok");
}

TEST(Failure, OfARankThatIsInterruptedWhileItWaitsForOthersEndsThem) {
  const std::uint16_t port = test::free_port();
  std::vector<std::unique_ptr<test::Process>> processes;
  for (int rank = 0; rank < 2; ++rank)
    processes.push_back(std::make_unique<test::Process>([=] {
      std::thread later([=] {
        std::this_thread::sleep_for(milliseconds(1000));
        if (rank == 1) take_signal(SIGTERM);
      });
      later.detach();
      return test::run_rank(test::launch_of(rank, 3, port), {.timeout = 20}, [](ProcessGroup&) { return "ok"; });
    }));
  for (const auto& process : processes) {
    const Outcome outcome = process->wait();
    EXPECT_EQ(outcome.exit_code, 143) << outcome.text;
    EXPECT_LT(outcome.seconds, kSoon);
  }
}

TEST(Failure, ThatCannotBeToldIsAWarning) {
  struct LostStore : c10d::HashStore {
    std::vector<std::uint8_t> compareSet(const std::string&, const std::vector<std::uint8_t>&,
                                         const std::vector<std::uint8_t>&) override {
      TORCH_CHECK(false, "Broken pipe");
    }
  };
  const adept::test::CapturedLog log;
  LostStore store;
  tell_job(store, {.exit_code = 1, .text = "rank 1 was killed by signal 9 (Killed)"});
  EXPECT_THAT(log.text(),
              HasSubstr("the other processes were not told that rank 1 was killed by signal 9 (Killed): Broken pipe"));
}

TEST(Failure, OfTheStoreIsReportedByARankThatMeets) {
  const auto outcomes = test::run_job(
      2,
      [](ProcessGroup& group) -> std::string {
        group.barrier();
        if (group.is_first()) ::raise(SIGKILL);
        while (true) group.meet();
      },
      kLong);
  EXPECT_EQ(outcomes[1].exit_code, 1);
  EXPECT_LT(outcomes[1].seconds, kSoon);
  EXPECT_THAT(outcomes[1].text, AllOf(HasSubstr("the connection to 127.0.0.1:"),
                                      HasSubstr("(rank 0) is lost: rank 0 ended without a message")));
}

/// Another program's answer to whoever connects.
std::string answer_with_noise(const test::PortInUse& port) {
  const int connection = ::accept(port.descriptor(), nullptr, nullptr);
  const std::string noise = "HTTP/1.1 400 Bad Request\r\n\r\n";
  [[maybe_unused]] const auto written = ::write(connection, noise.data(), noise.size());
  ::sleep(60);
  return "";
}

/// Fills the queue of those that wait to be accepted: packets of the next one are dropped. False if the system queues
/// any number.
bool fill_queue(std::uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < 100; ++i) {
    pollfd connection = {
        .fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), .events = POLLOUT, .revents = 0};
    ::connect(connection.fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
    if (::poll(&connection, 1, /*milliseconds=*/1000) == 0) return true;
  }
  return false;
}

TEST(Failure, OfAStoreThatDoesNotAnswerIsNamed) {
  const test::PortInUse port;
  if (!fill_queue(port.number())) GTEST_SKIP() << "this system drops no packets";
  test::Process rank([number = port.number()] {
    return test::run_rank(test::launch_of(1, 2, number), {.timeout = 2}, [](ProcessGroup&) { return "ok"; });
  });
  const Outcome outcome = rank.wait();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_LT(outcome.seconds, kSoon);
  EXPECT_THAT(outcome.text, HasSubstr("(rank 0) within 2 s: it does not answer. Check"));
}

TEST(Failure, OfAStoreThatIsAnotherProgramIsNamed) {
  const test::PortInUse port;
  const test::Process server([&] { return answer_with_noise(port); });
  test::Process rank([number = port.number()] {
    return test::run_rank(test::launch_of(1, 2, number), {.timeout = 2}, [](ProcessGroup&) { return "ok"; });
  });
  const Outcome outcome = rank.wait();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_LT(outcome.seconds, kSoon);
  EXPECT_THAT(outcome.text,
              AllOf(HasSubstr("rank 1 cannot reach 127.0.0.1:"), HasSubstr("another program answers there")));
}

TEST(Watch, EndsAProcessThatDoesNotEndByItselfAndAfterASignalLater) {
  for (const bool has_signal : {false, true}) {
    const auto outcomes = test::run_job(2,
                                        [=](ProcessGroup& group) -> std::string {
                                          group.barrier();
                                          if (group.is_first()) throw DataError("disk full");
                                          if (has_signal) take_signal(SIGTERM);
                                          std::this_thread::sleep_for(std::chrono::seconds(60));
                                          return "ok";
                                        },
                                        {.timeout = 4, .ends_process = true});
    EXPECT_EQ(outcomes[0].text, "disk full");
    EXPECT_EQ(outcomes[1].exit_code, 1);
    EXPECT_LT(outcomes[1].seconds, kSoon);
    if (!has_signal) continue;
    EXPECT_GT(outcomes[1].seconds, 4);  // dist.timeout: rank 0 may finish a checkpoint
  }
}

TEST(Watch, PassesTheSignalOfOneRankOnToAll) {
  for (const int signalled : {0, 1, 2}) {
    const auto outcomes = test::run_job(3,
                                        [=](ProcessGroup& group) -> std::string {
                                          group.barrier();
                                          if (group.rank() == signalled) take_signal(SIGTERM);
                                          group.on_first([] {
                                            while (true) throw_if_interrupted();
                                          });
                                          return "ok";
                                        },
                                        {.timeout = 5});
    for (const Outcome& outcome : outcomes) {
      EXPECT_EQ(outcome.exit_code, 143) << outcome.text;
      EXPECT_LT(outcome.seconds, kSoon);
    }
  }
}

/// What `rank` learns if the backend of rank 0, whose operations do not wait, reports an error.
std::string learn_of_an_error(const Launch& launch) {
  constexpr milliseconds kTimeout(2000);
  const auto serving = open_store(launch, kTimeout, /*may_serve=*/true);
  const auto watch = Watch::start(launch, open_store(launch, kTimeout, /*may_serve=*/false), kTimeout, false);
  if (launch.rank != 1) watch->count_operation();
  std::this_thread::sleep_for(milliseconds(1000));  // all have counted
  if (launch.rank == 0) watch->ask([] { return std::string("an operation did not end"); });
  while (!watch->failure()) std::this_thread::sleep_for(milliseconds(10));
  watch->wait_until_known();
  watch->stop(false);
  return watch->failure()->text;
}

TEST(Watch, FindsTheRankBehindAnErrorOfABackendThatDoesNotWait) {
  const std::uint16_t port = test::free_port();
  std::vector<std::unique_ptr<test::Process>> processes;
  for (int rank = 0; rank < 3; ++rank)
    processes.push_back(
        std::make_unique<test::Process>([=] { return learn_of_an_error(test::launch_of(rank, 3, port)); }));
  for (const auto& process : processes)
    EXPECT_THAT(process->wait().text, HasSubstr("rank 1 did not come to the same point within 2 s (dist.timeout)"));
}

}  // namespace
}  // namespace adept::dist
