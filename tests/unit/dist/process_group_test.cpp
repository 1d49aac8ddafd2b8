#include "adept/dist/process_group.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include <stdexcept>

#include "adept/core/hash.h"
#include "adept/dist/store.h"
#include "processes.h"
#include "tests/support/captured_log.h"

namespace adept::dist {
namespace {

using test::Outcome;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

/// Every rank returned "ok".
void expect_ok(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.text, "ok");
    EXPECT_EQ(outcome.exit_code, 0);
  }
}

std::string check(bool holds, const std::string& what) { return holds ? "ok" : what; }

std::string bits(const at::Tensor& tensor) {
  return hash_of(std::as_bytes(std::span(tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel()))));
}

TEST(FirstLine, HasTheReasonOfNccl) {
  const auto line = [](const std::string& text) { return first_line(std::runtime_error(text)); };
  EXPECT_EQ(line("one\ntwo"), "one");
  EXPECT_EQ(line("NCCL error in: x, invalid usage\nncclInvalidUsage: This\nLast error:\nOne GPU of two ranks\nmore"),
            "NCCL error in: x, invalid usage: One GPU of two ranks");
  EXPECT_EQ(line("NCCL error in: x\nLast error:\n"), "NCCL error in: x");
}

TEST(ProcessGroup, OfOneProcessLeavesTensorsAsTheyAre) {
  ProcessGroup group;
  at::Tensor tensor = at::arange(4, at::kFloat), whole = at::empty({4}, at::kFloat);
  group.all_reduce(tensor);
  group.start_all_reduce(tensor).wait();
  group.broadcast(tensor);
  group.all_gather(whole, tensor);
  EXPECT_TRUE(at::equal(whole, at::arange(4, at::kFloat)));
  group.start_all_to_all(tensor, whole).wait();
  EXPECT_TRUE(at::equal(tensor, at::arange(4, at::kFloat)));
  group.barrier();
  EXPECT_EQ(group.sum(2.5), 2.5);
  EXPECT_EQ(group.max(-2.5), -2.5);
  EXPECT_EQ(group.broadcast(std::string("x")), "x");
  EXPECT_EQ(group.all_gather(std::string("x")), std::vector<std::string>{"x"});
  group.agree([]() -> HeldByName { throw DataError("takes time to compute"); });
  group.meet();
  bool worked = false;
  group.on_first([&] { worked = true; });
  EXPECT_TRUE(worked);
  at::Tensor total = tensor.clone();
  group.reduce_to_first(total);
  EXPECT_TRUE(at::equal(total, tensor));
  std::int64_t helped_with = 0;
  group.on_first([&](ProcessGroup::Help call) { call(7); }, [&](std::int64_t n) { helped_with = n; });
  EXPECT_EQ(helped_with, 7);
  group.leave();
}

TEST(ProcessGroup, AddsBroadcastsGathersAndExchangesTensors) {
  for (const int size : {2, 3})
    expect_ok(test::run_job(size, [](ProcessGroup& group) -> std::string {
      const double rank = group.rank(), n = group.size(), sum = n * (n - 1) / 2;
      at::Tensor tensor = at::full({5}, rank, at::kFloat);
      group.all_reduce(tensor);
      if (!at::equal(tensor, at::full({5}, sum, at::kFloat))) return "all_reduce";
      tensor = at::full({2, 2}, rank, at::kBFloat16);
      group.broadcast(tensor, 1);
      if (!at::equal(tensor, at::full({2, 2}, 1, at::kBFloat16))) return "broadcast";
      const at::Tensor whole = at::empty({group.size(), 3}, at::kFloat);
      group.all_gather(whole, at::full({3}, rank, at::kFloat));
      for (int r = 0; r < group.size(); ++r)
        if (!at::equal(whole[r], at::full({3}, r, at::kFloat))) return "all_gather";
      const at::Tensor received = at::zeros({group.size(), 2}, at::kFloat);
      group.start_all_to_all(received, at::arange(2 * n, at::kFloat).view({-1, 2}) + 100 * rank).wait();
      for (int r = 0; r < group.size(); ++r)
        if (!at::equal(received[r], at::arange(2, at::kFloat) + 2 * rank + 100 * r)) return "all_to_all";
      const at::Tensor total = at::full({5}, rank, at::kInt);
      group.reduce_to_first(total);
      if (group.is_first() && !at::equal(total, at::full({5}, sum, at::kInt))) return "reduce_to_first";
      group.barrier();
      return "ok";
    }));
}

TEST(ProcessGroup, GivesEveryRankTheSameBitsOfASum) {
  const auto outcomes = test::run_job(3, [](ProcessGroup& group) {
    at::Tensor tensor = at::sin(at::arange(group.rank(), group.rank() + 100'003, at::kFloat));
    Pending first = group.start_all_reduce(tensor);
    at::Tensor second = at::sin(at::arange(group.rank(), group.rank() + 1001, at::kFloat));
    group.all_reduce(second);
    first.wait();
    return bits(tensor) + bits(second);
  });
  EXPECT_EQ(outcomes[0].text, outcomes[1].text);
  EXPECT_EQ(outcomes[0].text, outcomes[2].text);
}

TEST(ProcessGroup, GathersNumbersAndTexts) {
  expect_ok(test::run_job(2, [](ProcessGroup& group) -> std::string {
    if (group.sum(0.1 + group.rank()) != 0.1 + 1.1) return "sum";
    if (group.max(-group.rank()) != 0) return "max";
    const std::string long_text(100'000, 'x');
    const std::string own = group.is_first() ? "" : long_text;
    if (group.all_gather(own) != std::vector<std::string>{"", long_text}) return "texts";
    if (group.broadcast(own, 1) != long_text || !group.broadcast(own, 0).empty()) return "broadcast";
    return "ok";
  }));
}

TEST(ProcessGroup, AgreesOnEqualValues) {
  expect_ok(test::run_job(2, [](ProcessGroup& group) {
    group.agree([&] { return HeldByName{{"model", {"xxh3:1", group.is_first() ? "/a" : "/b"}}, {"version", {"1"}}}; });
    return "ok";
  }));
}

TEST(ProcessGroup, TellsEveryRankWhatDiffers) {
  const auto outcomes = test::run_job(3, [](ProcessGroup& group) -> std::string {
    HeldByName held = {{"seed", {group.rank() == 1 ? "7" : "42"}}, {"model", {"same"}}};
    held["tokens"] = {group.rank() == 2 ? "b" : "a", fmt::format("/cache/{}", group.rank())};
    if (group.rank() == 2) held["new"] = {"here"};
    group.agree([&] { return held; }, "Do this.");
    return "agreed";
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.text, AllOf(HasSubstr("seed: ranks 0, 2: 42; rank 1: 7"), Not(HasSubstr("model:")),
                                    HasSubstr("new: ranks 0, 1: nothing; rank 2: here"),
                                    HasSubstr("tokens: rank 0: a (in /cache/0); rank 1: a (in /cache/1); rank 2: b (in "
                                              "/cache/2)"),
                                    EndsWith("Do this.")));
  }
}

TEST(ProcessGroup, ListsTheFirstOfManyDifferences) {
  const auto outcomes = test::run_job(2, [](ProcessGroup& group) -> std::string {
    HeldByName held;
    for (int i = 0; i < 50; ++i) held[fmt::format("tensor {:02}", i)] = {std::to_string(group.rank())};
    group.agree([&] { return held; });
    return "agreed";
  });
  for (const Outcome& outcome : outcomes)
    EXPECT_THAT(outcome.text, AllOf(HasSubstr("tensor 19: rank 0: 0; rank 1: 1"), Not(HasSubstr("tensor 20")),
                                    HasSubstr("and 30 more")));
}

TEST(ProcessGroup, WaitsForARankThatPreparesLongerThanTheTimeOut) {
  const auto prepares_and_meets = [](ProcessGroup& group) {
    if (group.rank() == 1) sleep_seconds(3);
    group.meet();
    group.barrier();
  };
  expect_ok(test::run_job(3,
                          [&](ProcessGroup& group) {
                            prepares_and_meets(group);
                            prepares_and_meets(group);  // each meeting is one of its own
                            return "ok";
                          },
                          {.timeout = 1.5}));
  expect_ok(test::run_job(2,
                          [](ProcessGroup& group) {
                            group.agree([&] {
                              if (group.rank() == 1) sleep_seconds(3);
                              return HeldByName{{"hash of a large file", {"1"}}};
                            });
                            return "ok";
                          },
                          {.timeout = 1.5}));
}

TEST(ProcessGroup, DoesNotWaitForARankThatEndsWhileItPrepares) {
  for (const bool is_killed : {false, true}) {
    const auto outcomes = test::run_job(2,
                                        [=](ProcessGroup& group) -> std::string {
                                          group.barrier();
                                          if (group.rank() == 1 && is_killed) ::raise(SIGKILL);
                                          if (group.rank() == 1) throw DataError("a damaged file");
                                          group.meet();
                                          return "ok";
                                        },
                                        {.timeout = 2});
    EXPECT_EQ(outcomes[0].exit_code, 1);
    EXPECT_THAT(outcomes[0].text, HasSubstr(is_killed ? "rank 1 gave no sign of life for 2 s (dist.timeout)"
                                                      : "rank 1 ended: a damaged file"));
  }
}

TEST(ProcessGroup, OthersWaitWhileTheFirstWorksLongerThanTheTimeOut) {
  expect_ok(test::run_job(2,
                          [](ProcessGroup& group) {
                            bool worked = false;
                            group.on_first([&] {
                              sleep_seconds(3);
                              worked = true;
                            });
                            group.barrier();
                            return check(worked == group.is_first(), "the wrong rank worked");
                          },
                          {.timeout = 1.5}));
}

TEST(ProcessGroup, OthersHelpTheFirstWhenItCallsThem) {
  expect_ok(test::run_job(3,
                          [](ProcessGroup& group) {
                            std::vector<double> sums;
                            const auto help = [&](std::int64_t n) {
                              sums.push_back(group.sum(static_cast<double>(n) * (group.rank() + 1)));
                            };
                            for (int turn = 0; turn < 2; ++turn)
                              group.on_first(
                                  [&](ProcessGroup::Help call) {
                                    call(3);
                                    sleep_seconds(turn == 0 ? 3 : 0);  // longer than the time-out
                                    call(1'000'000'000'000);
                                  },
                                  help);
                            const std::vector<double> expected = {18, 6e12, 18, 6e12};
                            return check(group.size() == 3 && sums == expected, "sums");
                          },
                          {.timeout = 1.5}));
}

TEST(ProcessGroup, OthersThatHelpLearnWhyTheFirstEnded) {
  for (const bool is_interrupted : {false, true}) {
    const auto outcomes = test::run_job(2, [=](ProcessGroup& group) -> std::string {
      group.on_first(
          [&](ProcessGroup::Help call) {
            call(1);
            if (is_interrupted) throw InterruptedError("terminated (SIGTERM)", ExitCode::kTerminated);
            throw DataError("the disk is full");
          },
          [&](std::int64_t) { group.barrier(); });
      return "ok";
    });
    EXPECT_EQ(outcomes[1].exit_code, is_interrupted ? 143 : 1);
    EXPECT_THAT(outcomes[1].text, HasSubstr(is_interrupted ? "SIGTERM" : "rank 0 ended: the disk is full"));
  }
}

TEST(ProcessGroup, OthersLearnWhyARankEnded) {
  for (const int failing : {0, 1}) {
    const auto outcomes = test::run_job(3, [=](ProcessGroup& group) -> std::string {
      group.barrier();
      if (group.rank() == failing) throw DataError("the disk is full");
      group.barrier();
      return "ok";
    });
    for (int rank = 0; rank < 3; ++rank) {
      const Outcome& outcome = outcomes[static_cast<std::size_t>(rank)];
      EXPECT_EQ(outcome.exit_code, 1);
      EXPECT_EQ(outcome.text,
                rank == failing ? "the disk is full" : fmt::format("rank {} ended: the disk is full", failing));
    }
  }
}

TEST(ProcessGroup, OthersLearnWhyTheFirstFailedAtItsTurn) {
  const auto outcomes = test::run_job(2, [](ProcessGroup& group) -> std::string {
    group.on_first([] { throw ConfigError("bad key"); });
    return "ok";
  });
  EXPECT_EQ(outcomes[0].exit_code, 2);
  EXPECT_EQ(outcomes[1].exit_code, 2);
  EXPECT_EQ(outcomes[1].text, "rank 0 ended: bad key");
}

TEST(ProcessGroup, EndsByTheSameSignalAsARankThatSaved) {
  const auto outcomes = test::run_job(2, [](ProcessGroup& group) -> std::string {
    if (group.rank() == 1) throw InterruptedError("terminated (SIGTERM)", ExitCode::kTerminated);
    group.barrier();
    return "ok";
  });
  EXPECT_EQ(outcomes[0].exit_code, 143);
}

TEST(ProcessGroup, NamesARankThatWasKilled) {
  for (const int killed : {0, 1, 2}) {
    const auto outcomes = test::run_job(3,
                                        [=](ProcessGroup& group) -> std::string {
                                          group.barrier();
                                          if (group.rank() == killed) ::raise(SIGKILL);
                                          while (true) group.barrier();
                                        },
                                        {.timeout = 6});
    for (int rank = 0; rank < 3; ++rank) {
      const Outcome& outcome = outcomes[static_cast<std::size_t>(rank)];
      if (rank == killed) continue;
      EXPECT_EQ(outcome.exit_code, 1) << outcome.text;
      EXPECT_THAT(outcome.text, AllOf(HasSubstr(fmt::format("rank {}", killed)), HasSubstr("ended without a message")));
      EXPECT_LT(outcome.seconds, 6);
    }
  }
}

TEST(ProcessGroup, NamesARankThatIsStopped) {
  for (const int stopped : {0, 1}) {
    test::Job job(3,
                  [](ProcessGroup& group) -> std::string {
                    while (true) group.barrier();
                  },
                  {.timeout = 2});
    sleep_seconds(1.5);
    job.rank(stopped).send(SIGSTOP);
    for (int rank = 0; rank < 3; ++rank) {
      if (rank == stopped) continue;
      const Outcome outcome = job.rank(rank).wait();
      EXPECT_EQ(outcome.exit_code, 1);
      EXPECT_THAT(outcome.text, AllOf(HasSubstr(fmt::format("rank {} gave no sign of life for 2 s", stopped)),
                                      HasSubstr("dist.timeout")));
    }
  }
}

TEST(ProcessGroup, NamesARankThatIsTooSlow) {
  const auto outcomes = test::run_job(2,
                                      [](ProcessGroup& group) -> std::string {
                                        group.barrier();
                                        if (group.rank() == 1) sleep_seconds(6);
                                        group.barrier();
                                        return "ok";
                                      },
                                      {.timeout = 1.5});
  EXPECT_THAT(outcomes[0].text, AllOf(HasSubstr("rank 1 did not come"), HasSubstr("within 1.5 s (dist.timeout)")));
  EXPECT_EQ(outcomes[0].exit_code, 1);
  EXPECT_NE(outcomes[1].exit_code, 0);
}

TEST(ProcessGroup, EndsARankThatComputesOnAfterAFailure) {
  const auto outcomes = test::run_job(2,
                                      [](ProcessGroup& group) -> std::string {
                                        if (group.rank() == 0) throw DataError("a bad file");
                                        sleep_seconds(60);
                                        return "ok";
                                      },
                                      {.timeout = 2, .ends_process = true});
  EXPECT_EQ(outcomes[1].exit_code, 1);
  EXPECT_LT(outcomes[1].seconds, 20);
}

TEST(ProcessGroup, NamesTheRanksThatDidNotCome) {
  const std::uint16_t port = test::free_port();
  test::Process first(
      [=] { return test::run_rank(test::launch_of(0, 3, port), {.timeout = 2}, [](ProcessGroup&) { return "ok"; }); });
  const Outcome outcome = first.wait();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("of 3 processes, rank 1, 2 did not come to 127.0.0.1:"),
                                  HasSubstr("within 2 s"), HasSubstr("WORLD_SIZE")));
}

TEST(ProcessGroup, SaysThatThePortIsInUse) {
  const test::PortInUse port;
  test::Process first([&] {
    return test::run_rank(test::launch_of(0, 2, port.number()), {.timeout = 2}, [](ProcessGroup&) { return "ok"; });
  });
  const Outcome outcome = first.wait();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr(fmt::format("port {}", port.number())),
                                  HasSubstr("another program uses it"), HasSubstr("Set MASTER_PORT")));
}

TEST(ProcessGroup, SaysThatAnotherProgramAnswersOrDoesNot) {
  const test::PortInUse port;  // accepts, and says nothing
  test::Process second([number = port.number()] {
    return test::run_rank(test::launch_of(1, 2, number), {.timeout = 2}, [](ProcessGroup&) { return "ok"; });
  });
  const Outcome outcome = second.wait();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("rank 1 cannot reach"), HasSubstr("another program answers there")));
  EXPECT_LT(outcome.seconds, 12);
}

TEST(ProcessGroup, SaysThatTheMasterIsNotReached) {
  const std::uint16_t port = test::free_port();
  test::Process second(
      [=] { return test::run_rank(test::launch_of(1, 2, port), {.timeout = 2}, [](ProcessGroup&) { return "ok"; }); });
  const Outcome outcome = second.wait();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr(fmt::format("rank 1 cannot reach 127.0.0.1:{}", port)),
                                  HasSubstr(": nothing listens there. Check that rank 0 runs"),
                                  HasSubstr("MASTER_ADDR and MASTER_PORT")));
  EXPECT_LT(outcome.seconds, 12);
}

TEST(ProcessGroup, RanksWithDifferentNumbersOfProcessesEndAtOnce) {
  const std::uint16_t port = test::free_port();
  const auto start = [=](int rank, int size) {
    return std::make_unique<test::Process>([=] {
      return test::run_rank(test::launch_of(rank, size, port), {.timeout = 30}, [](ProcessGroup&) { return "ok"; });
    });
  };
  const auto first = start(0, 2), second = start(1, 3);
  for (const auto& rank : {first.get(), second.get()}) {
    const Outcome outcome = rank->wait();
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.text, AllOf(HasSubstr("the number of processes: found "), HasSubstr("3 at rank 1"),
                                    HasSubstr("2 at rank 0"), HasSubstr("expected the same at every rank")));
    EXPECT_LT(outcome.seconds, 12);
  }
}

TEST(ProcessGroup, SaysThatTheNameOfTheMasterIsNotKnown) {
  Launch launch = test::launch_of(1, 2, test::free_port());
  launch.host = "no.such.host.invalid";
  test::Process rank([=] {
    const adept::test::CapturedLog log;
    try {
      return test::run_rank(launch, {.timeout = 2}, [](ProcessGroup&) { return "ok"; });
    } catch (const DataError& error) {
      return log.text() + "\n" + error.what();
    }
  });
  const std::string text = rank.wait().text;  // first a warning while it waits
  EXPECT_THAT(text, HasSubstr("rank 1 waits for no.such.host.invalid:"));
  EXPECT_THAT(text, HasSubstr("up to 2 s: the name no.such.host.invalid is not known ("));
  EXPECT_THAT(text, HasSubstr("within 2 s: the name no.such.host.invalid is not known ("));
}

}  // namespace
}  // namespace adept::dist
