#include "adept/dist/launch.h"

#include <gmock/gmock.h>

#include <map>

#include "adept/core/error.h"

namespace adept::dist {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

Variables variables(const std::map<std::string, std::string>& values) {
  return [values](const char* name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

std::string message(const std::map<std::string, std::string>& values) {
  try {
    read_launch(variables(values));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

const std::map<std::string, std::string> kTorchrun = {{"RANK", "3"},
                                                      {"WORLD_SIZE", "4"},
                                                      {"LOCAL_RANK", "1"},
                                                      {"LOCAL_WORLD_SIZE", "2"},
                                                      {"MASTER_ADDR", "node0"},
                                                      {"MASTER_PORT", "29400"},
                                                      {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                                      {"TORCHELASTIC_RESTART_COUNT", "2"}};

const std::map<std::string, std::string> kSrun = {{"SLURM_STEP_NUM_TASKS", "6"},
                                                  {"SLURM_PROCID", "4"},
                                                  {"SLURM_LOCALID", "1"},
                                                  {"SLURM_NODEID", "1"},
                                                  {"SLURM_JOB_ID", "12"},
                                                  {"SLURM_STEP_TASKS_PER_NODE", "3(x2)"},
                                                  {"SLURM_STEP_NODELIST", "gpu[07-08]"}};

std::map<std::string, std::string> with(std::map<std::string, std::string> values, const std::string& name,
                                        const std::string& value) {
  values[name] = value;
  return values;
}

std::map<std::string, std::string> without(std::map<std::string, std::string> values, const std::string& name) {
  values.erase(name);
  return values;
}

TEST(Launch, WithoutVariablesIsOneProcess) {
  const Launch launch = read_launch(variables({}));
  EXPECT_EQ(launch.rank, 0);
  EXPECT_EQ(launch.size, 1);
  EXPECT_TRUE(launch.is_one_machine());
}

TEST(Launch, ReadsTheVariablesOfTorchrun) {
  const Launch launch = read_launch(variables(kTorchrun));
  EXPECT_EQ(launch.rank, 3);
  EXPECT_EQ(launch.size, 4);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_size, 2);
  EXPECT_EQ(launch.cores_shared_by, 2);
  EXPECT_FALSE(launch.is_first_on_its_cores());
  EXPECT_TRUE(read_launch(variables(with(kTorchrun, "LOCAL_RANK", "0"))).is_first_on_its_cores());
  EXPECT_EQ(launch.host, "node0");
  EXPECT_EQ(launch.port, 29400);
  EXPECT_TRUE(launch.has_server);
  EXPECT_EQ(launch.attempt, "2");
  EXPECT_FALSE(launch.is_one_machine());
}

TEST(Launch, OfOneProcessNeedsNoPlaceToMeet) {
  EXPECT_EQ(read_launch(variables({{"RANK", "0"}, {"WORLD_SIZE", "1"}})).size, 1);
}

TEST(Launch, WithPlainVariablesRankZeroIsTheServer) {
  const Launch launch =
      read_launch(variables({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}}));
  EXPECT_FALSE(launch.has_server);
  EXPECT_EQ(launch.local_size, 1);
}

TEST(Launch, ReportsAllProblemsAtOnce) {
  EXPECT_THAT(message({{"RANK", "x"}, {"MASTER_PORT", "70000"}}),
              AllOf(HasSubstr("RANK is \"x\""), HasSubstr("WORLD_SIZE is not set"), HasSubstr("unset them")));
  const auto two_bad = with(without(kTorchrun, "MASTER_ADDR"), "MASTER_PORT", "70000");
  EXPECT_THAT(message(two_bad), AllOf(HasSubstr("MASTER_ADDR is not set"), HasSubstr("MASTER_PORT is \"70000\""),
                                      Not(HasSubstr("WORLD_SIZE is"))));
}

TEST(Launch, RefusesARankThatTheJobDoesNotHave) {
  EXPECT_THAT(message(with(kTorchrun, "RANK", "4")), HasSubstr("RANK is 4; expected less than WORLD_SIZE, which is 4"));
  EXPECT_THAT(message(with(kTorchrun, "RANK", "-1")), HasSubstr("RANK is \"-1\"; expected an integer"));
  EXPECT_THAT(message(with(kTorchrun, "LOCAL_RANK", "2")), HasSubstr("LOCAL_WORLD_SIZE, which is 2"));
  EXPECT_THAT(message(with(kTorchrun, "WORLD_SIZE", "0")), HasSubstr("WORLD_SIZE is \"0\""));
  EXPECT_THAT(message(with(kTorchrun, "MASTER_PORT", "29400x")), HasSubstr("MASTER_PORT is \"29400x\""));
}

/// What is right of wrong variables.
Launch known(const std::map<std::string, std::string>& values) {
  try {
    read_launch(variables(values));
  } catch (const LaunchError& error) {
    return error.known();
  }
  return {};
}

TEST(Launch, KnowsOfWrongVariablesWhereTheOthersMeet) {
  const Launch without_size = known(without(kTorchrun, "WORLD_SIZE"));
  EXPECT_EQ(without_size.size, LaunchError::kUnknownSize);
  EXPECT_EQ(without_size.rank, 3);
  EXPECT_EQ(without_size.host, "node0");
  EXPECT_EQ(without_size.port, 29400);
  EXPECT_EQ(without_size.attempt, "2");
  EXPECT_TRUE(without_size.has_server);
  for (const char* rank : {"x", "4"}) {
    const Launch without_rank = known(with(kTorchrun, "RANK", rank));
    EXPECT_EQ(without_rank.rank, LaunchError::kUnknownRank);
    // Of a rank that is too large for the size, either may be wrong.
    EXPECT_EQ(without_rank.size, std::string_view(rank) == "x" ? 4 : LaunchError::kUnknownSize);
    EXPECT_FALSE(without_rank.serves());
  }
  EXPECT_EQ(known(with(kTorchrun, "MASTER_PORT", "70000")).port, 0);
  EXPECT_EQ(known(without(kSrun, "SLURM_JOB_ID")).port, 0);
  EXPECT_EQ(known(without(kSrun, "SLURM_PROCID")).host, "gpu07");
}

TEST(Launch, TheServerNeedsNoAddressToTellTheOthers) {
  const std::map<std::string, std::string> first = {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "99"}};
  EXPECT_EQ(known(first).host, "localhost");
  EXPECT_EQ(known(with(first, "RANK", "1")).host, "");
}

TEST(Launch, ReadsTheVariablesOfSrun) {
  const Launch launch = read_launch(variables(kSrun));
  EXPECT_EQ(launch.rank, 4);
  EXPECT_EQ(launch.size, 6);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_size, 3);
  EXPECT_EQ(launch.host, "gpu07");
  EXPECT_EQ(launch.port, 15012);
  EXPECT_FALSE(launch.has_server);
  EXPECT_EQ(launch.cores_shared_by, 3);
  EXPECT_FALSE(launch.is_first_on_its_cores());
  const Launch with_own_cores = read_launch(variables(with(kSrun, "SLURM_CPUS_PER_TASK", "8")));
  EXPECT_EQ(with_own_cores.cores_shared_by, 1);
  EXPECT_TRUE(with_own_cores.is_first_on_its_cores());
}

TEST(Launch, StepsOfOneSlurmJobMeetAtDifferentPorts) {
  EXPECT_NE(read_launch(variables(with(kSrun, "SLURM_STEP_ID", "1"))).port, 15012);
  EXPECT_EQ(read_launch(variables(with(kSrun, "MASTER_PORT", "99"))).port, 99);
  EXPECT_EQ(read_launch(variables(with(kSrun, "MASTER_ADDR", "login"))).host, "login");
}

TEST(Launch, TasksOfOneSlurmNodeMeetOnThisMachine) {
  const auto one_node = with(kSrun, "SLURM_STEP_TASKS_PER_NODE", "6");
  EXPECT_EQ(read_launch(variables(with(one_node, "SLURM_NODEID", "0"))).host, "127.0.0.1");
}

TEST(Launch, ABatchScriptOfSlurmIsOneProcess) {
  EXPECT_EQ(read_launch(variables({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_JOB_ID", "1"}})).size, 1);
  EXPECT_EQ(read_launch(variables({{"SLURM_STEP_NUM_TASKS", "1"}})).size, 1);
}

TEST(Launch, ReportsMissingVariablesOfSlurm) {
  EXPECT_THAT(message(without(without(kSrun, "SLURM_PROCID"), "SLURM_STEP_NODELIST")),
              AllOf(HasSubstr("SLURM_PROCID is not set"), HasSubstr("SLURM_STEP_NODELIST is not set")));
}

TEST(Launch, FindsTheFirstHostOfSlurmsList) {
  EXPECT_EQ(detail::first_host("node1"), "node1");
  EXPECT_EQ(detail::first_host("node1,node2"), "node1");
  EXPECT_EQ(detail::first_host("node[03-05,9],gpu1"), "node03");
  EXPECT_EQ(detail::first_host("node[3,5]"), "node3");
  EXPECT_EQ(detail::first_host("r[1-2]n[07-09]-ib,x"), "r1n07-ib");
}

TEST(Launch, FindsTheTasksOfASlurmNode) {
  EXPECT_EQ(detail::tasks_of_node("4", 0), 4);
  EXPECT_EQ(detail::tasks_of_node("4(x2),3", 1), 4);
  EXPECT_EQ(detail::tasks_of_node("4(x2),3", 2), 3);
  EXPECT_EQ(detail::tasks_of_node("4(x2),3", 3), std::nullopt);
  EXPECT_EQ(detail::tasks_of_node("4(x", 0), std::nullopt);
  EXPECT_EQ(detail::tasks_of_node("", 0), std::nullopt);
}

}  // namespace
}  // namespace adept::dist
