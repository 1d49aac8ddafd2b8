// Which text is replayed, and how much of it, where the configuration does not say so.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/config/types.h"
#include "tests/support/captured_log.h"
#include "tests/support/reads.h"
#include "tests/unit/config/minimal_config.h"

namespace adept::config {
namespace {

using test::Says;

TEST(Replay, IsTwoPercentWhereThereIsTextForItUnlessAShareIsGiven) {
  const std::string replay = "data.replay=[{name: r, path: p, weight: 3}, {name: s, path: q, weight: 1}]";
  for (const char* method : {"adept", "full", "llama_pro", "lora", "top_k_layers"}) {
    const test::CapturedLog log;
    EXPECT_EQ(minimal_with({std::string("method=") + method, replay}).train.replay_ratio, 0.02) << method;
    EXPECT_THAT(log.text(), Says("data.replay: 2 % of the training tokens...train.replay_ratio"));
  }
  const test::CapturedLog log;
  EXPECT_EQ(minimal_with({"method=replay", replay}).train.replay_ratio, 0.25);
  EXPECT_EQ(minimal_with({"train.replay_ratio=0", replay}).train.replay_ratio, 0.0);
  EXPECT_EQ(minimal_with({"train.replay_ratio=10%", replay}).train.replay_ratio, 0.1);
  EXPECT_EQ(minimal_with({"data.general=[]", "method=full"}).train.replay_ratio, 0.0);
  EXPECT_EQ(log.text(), "");
}

TEST(Replay, IsOfGeneralTextWhereNothingElseIsGiven) {
  const test::CapturedLog log;
  const std::string general = "data.general=[{name: gen, path: gen.txt, weight: 3}, {name: b, path: b.md, weight: 1}]";
  for (const char* method : {"adept", "full", "llama_pro", "lora", "top_k_layers"}) {
    const RunConfig config = minimal_with({std::string("method=") + method, general});
    EXPECT_EQ(config.train.replay_ratio, 0.02) << method;
    ASSERT_EQ(config.data.replay.size(), 2U);
    const TrainSource& replay = config.data.replay[0];
    EXPECT_EQ(replay.name, "gen-replay");
    EXPECT_EQ(replay.paths, config.data.general[0].paths);
    EXPECT_EQ(replay.weight, data::WeightSchedule(3));
    EXPECT_EQ(replay.epochs, 4.0);
    EXPECT_EQ(config.data.replay[1].name, "b-replay");
  }
  EXPECT_THAT(log.text(), Says("data.general: 2 % of the training tokens are replay of this text, up to 4 epochs"
                               "...data.replay...train.replay_ratio"));
}

TEST(Replay, IsNotOfGeneralTextThatIsHeldOutOrTrainedOnAlready) {
  const std::string eval = "data.eval=[{name: held, path: [other.txt, gen.txt]}]";
  const std::string train = "data.train=[{name: med, path: med.txt}, {name: g, path: gen.txt}]";
  for (const std::string& other : {eval, train}) {
    const test::CapturedLog log;
    const RunConfig config = minimal_with({other});
    EXPECT_EQ(config.train.replay_ratio, 0.0) << other;
    EXPECT_THAT(config.data.replay, testing::IsEmpty());
    EXPECT_THAT(log.text(), Says("data.general: not replayed...data.replay"));
  }
  const RunConfig one = minimal_with({eval, "data.general=[{name: gen, path: gen.txt}, {name: b, path: b.md}]"});
  ASSERT_EQ(one.data.replay.size(), 1U) << "the source that is not held out";
  EXPECT_EQ(one.data.replay[0].name, "b-replay");
}

TEST(Replay, IsNotOfGeneralTextWhereTheMixtureIsGiven) {
  const test::CapturedLog log;
  const RunConfig config = minimal_with({"data.train=[{name: med, path: med.txt, weight: 1}]"});
  EXPECT_EQ(config.train.replay_ratio, 0.0);
  EXPECT_THAT(config.data.replay, testing::IsEmpty());
  EXPECT_EQ(log.text(), "");
}

TEST(Replay, OfGeneralTextNeedsTextThatCanBeReadTwice) {
  for (const char* path : {"-", "/dev/stdin"})
    EXPECT_THAT(minimal_with({fmt::format("data.general=[{{name: gen, path: {}}}]", path)}).data.replay,
                testing::IsEmpty());
}

TEST(Replay, OfGeneralTextIsReadAgainFromTheResolvedFile) {
  const RunConfig config = minimal_with({});
  const RunConfig again = parse(to_yaml(config));
  ASSERT_EQ(again.data.replay.size(), 1U);
  EXPECT_EQ(again.train.replay_ratio, 0.02);
  EXPECT_EQ(deciding(again, ~0U), deciding(config, ~0U));
}

TEST(Replay, OfALongNameHasANameOfItsOwn) {
  const std::string name(64, 'n');
  const RunConfig config = minimal_with({"data.general.0.name=" + name});
  EXPECT_EQ(config.data.replay.at(0).name, name.substr(0, 57) + "-replay");
  EXPECT_TRUE(is_source_name(config.data.replay.at(0).name));
}

}  // namespace
}  // namespace adept::config
