#include "adept/run/stage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/core/process_memory.h"
#include "adept/io/record.h"
#include "tests/support/captured_log.h"
#include "tests/support/tiny_models.h"

namespace adept::run {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A stage that writes "out" in a run directory, each time in a session of its own.
struct Stage {
  test::TemporaryDirectory dir;
  int done = 0;

  StageRecord run(const Json& inputs, const std::vector<std::string>& outputs = {"out"}) {
    StageRunner runner(dir.path());
    runner.run("stage", inputs, outputs, [&] {
      ++done;
      test::write_file(dir / "out", "result");
    });
    return runner.records().at(0);
  }
  std::filesystem::path record() const { return dir / "stages/stage.json"; }
};

const Json kInputs = {{"model", "xxh3:1"}, {"config", {{"seq_len", 8}}}};

TEST(StageRunner, DoesAStageOnceAndKeepsItInLaterSessions) {
  Stage stage;
  EXPECT_FALSE(stage.run(kInputs).skipped);
  EXPECT_EQ(stage.done, 1);
  const StageRecord kept = stage.run(kInputs);
  EXPECT_TRUE(kept.skipped);
  EXPECT_EQ(stage.done, 1);
  EXPECT_EQ(kept.name, "stage");
  EXPECT_EQ(kept.inputs, kInputs);
}

TEST(StageRunner, SeesEveryByteOfAModelThatAStageWrote) {
  const test::TemporaryDirectory dir;
  int done = 0;
  const auto run = [&] {
    StageRunner(dir.path()).run("stage", kInputs, {"model"}, [&] {
      ++done;
      std::filesystem::remove_all(dir / "model");
      test::write_model(dir / "model", test::config_of_kind("llama"));
    });
  };
  run();
  run();
  EXPECT_EQ(done, 1);
  const std::filesystem::path file = dir / "model" / "model.safetensors";
  const std::string good = test::read_file(file);
  int expected = 1;
  for (const std::size_t place :
       {std::size_t{0}, good.find("}", 8) - 1, good.find("\"pt\"") + 1, good.find("weight"), good.size() - 1}) {
    std::string bad = good;
    bad[place] ^= 1;
    test::write_file(file, bad);
    run();
    EXPECT_EQ(done, ++expected) << place;
    EXPECT_EQ(test::read_file(file), good);
  }
}

TEST(StageRunner, AKeptStageReportsTheTimeAndMemoryOfTheSessionThatDidIt) {
  Stage stage;
  stage.run(kInputs);
  Json record = io::read_record(stage.record());
  EXPECT_GE(record["seconds"].get<double>(), 0);
  EXPECT_GT(record["peak_rss_bytes"].get<std::int64_t>(), 1 << 20);
  record["seconds"] = 1234.5;
  record["peak_rss_bytes"] = 777;
  io::write_record(stage.record(), record);
  const StageRecord kept = stage.run(kInputs);
  EXPECT_TRUE(kept.skipped);
  EXPECT_EQ(kept.seconds, 1234.5);
  EXPECT_EQ(kept.peak_rss_bytes, 777);
  EXPECT_TRUE(kept.memory.is_null());
}

TEST(StageRunner, RecordsTheMemoryOfTheStageThatRuns) {
  const test::TemporaryDirectory dir;
  const Json memory = {{"weights", 5}, {"total", 8}};
  const auto records = [&] {
    StageRunner stages(dir.path());
    stages.run("probe", kInputs, {}, [&] { stages.set_memory(memory); });
    stages.run("train", kInputs, {}, [] {});
    return stages.records();
  };
  for (const bool kept : {false, true}) {
    const std::vector<StageRecord> found = records();
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].skipped, kept);
    EXPECT_EQ(found[0].memory, memory);
    EXPECT_TRUE(found[1].memory.is_null());
  }
}

TEST(StageRunner, KeepsAStageWhoseOutputsWereUsedUp) {
  Stage stage;
  stage.run(kInputs);
  StageRunner runner(stage.dir.path());
  EXPECT_TRUE(runner.is_done("stage", kInputs));
  EXPECT_FALSE(runner.is_done("stage", {{"model", "xxh3:2"}}));
  std::filesystem::remove(stage.dir / "out");
  EXPECT_FALSE(runner.is_done("stage", kInputs));
  EXPECT_FALSE(runner.keep_without_outputs("stage", {{"model", "xxh3:2"}}));
  EXPECT_FALSE(runner.keep_without_outputs("another", kInputs));
  EXPECT_TRUE(runner.records().empty());
  EXPECT_TRUE(runner.keep_without_outputs("stage", kInputs));
  EXPECT_TRUE(runner.records().at(0).skipped);
}

TEST(StageRunner, DoesAStageAgainWhenAnyInputHasChanged) {
  Stage stage;
  stage.run(kInputs);
  Json changed = kInputs;
  changed["config"]["seq_len"] = 16;
  EXPECT_FALSE(stage.run(changed).skipped);
  EXPECT_TRUE(stage.run(changed).skipped);
  EXPECT_FALSE(stage.run(kInputs).skipped) << "the record is that of the last time";
  changed = kInputs;
  changed["more"] = nullptr;
  EXPECT_FALSE(stage.run(changed).skipped);
  EXPECT_EQ(stage.done, 4);
}

TEST(StageRunner, DoesAStageAgainWhenAnOutputIsMissing) {
  Stage stage;
  test::write_file(stage.dir / "second", "");
  stage.run(kInputs, {"out", "second"});
  EXPECT_TRUE(stage.run(kInputs, {"out", "second"}).skipped);
  std::filesystem::remove(stage.dir / "out");
  EXPECT_FALSE(stage.run(kInputs, {"out", "second"}).skipped);
  std::filesystem::remove(stage.dir / "second");
  EXPECT_FALSE(stage.run(kInputs, {"out", "second"}).skipped);
}

TEST(StageRunner, DoesAStageAgainWhenAnOutputHasChanged) {
  Stage stage;
  const std::vector<std::string> outputs = {"out", "folder"};
  std::filesystem::create_directories(stage.dir / "folder/deep");
  test::write_file(stage.dir / "folder/deep/weights", "1234");
  stage.run(kInputs, outputs);
  EXPECT_TRUE(stage.run(kInputs, outputs).skipped);
  test::write_file(stage.dir / "folder/deep/weights", "1235");
  EXPECT_FALSE(stage.run(kInputs, outputs).skipped) << "one bit";
  EXPECT_TRUE(stage.run(kInputs, outputs).skipped);
  test::write_file(stage.dir / "folder/more", "");
  EXPECT_FALSE(stage.run(kInputs, outputs).skipped) << "a file more";
  std::filesystem::remove(stage.dir / "folder/deep/weights");
  EXPECT_FALSE(stage.run(kInputs, outputs).skipped) << "a file less";
  EXPECT_TRUE(stage.run(kInputs, outputs).skipped);
}

TEST(StageRunner, CountsTheTimeOfInterruptedSessions) {
  Stage stage;
  const auto interrupt = [&](const Json& inputs) {
    StageRunner runner(stage.dir.path());
    EXPECT_THROW(
        runner.run("stage", inputs, {"out"}, [] { throw InterruptedError("interrupted", ExitCode::kInterrupted); }),
        InterruptedError);
  };
  interrupt(kInputs);
  Json record = io::read_record(stage.record());
  EXPECT_EQ(record["interrupted"], true);
  record["seconds"] = 1000;
  io::write_record(stage.record(), record);
  interrupt(kInputs);
  const StageRecord done = stage.run(kInputs);
  EXPECT_FALSE(done.skipped);
  EXPECT_GE(done.seconds, 1000);
  EXPECT_LT(done.seconds, 1100);
  interrupt({{"other", 1}});
  EXPECT_LT(stage.run(kInputs).seconds, 100) << "work on other inputs is no part of it";
}

TEST(StageRunner, TellsWhatIsOtherThanWhenAStageWasDone) {
  Stage stage;
  const auto other = [&](const Json& inputs) { return StageRunner(stage.dir.path()).other_inputs("stage", inputs); };
  EXPECT_THAT(other(kInputs), IsEmpty()) << "it was never done";
  stage.run(kInputs);
  EXPECT_THAT(other(kInputs), IsEmpty());
  Json changed = kInputs;
  changed["config"]["seq_len"] = 16;
  EXPECT_THAT(other(changed), ElementsAre("config.seq_len: was 8, now 16"));
}

TEST(StageRunner, DiscardsWhatAStageThatIsNoMoreHasLeft) {
  const test::TemporaryDirectory dir;
  test::write_file(dir / "other.json", "not made by a stage");
  StageRunner stages(dir.path());
  stages.discard("probe", {"other.json"});
  EXPECT_TRUE(std::filesystem::exists(dir / "other.json")) << "without a record it is somebody else's";
  stages.run("probe", {}, {"scores.json", "folder"}, [&] {
    test::write_file(dir / "scores.json", "1");
    std::filesystem::create_directories(dir / "folder" / "inner");
  });
  StageRunner(dir.path()).discard("probe", {"scores.json", "folder"});
  EXPECT_FALSE(std::filesystem::exists(dir / "scores.json") || std::filesystem::exists(dir / "folder") ||
               std::filesystem::exists(dir / "stages/probe.json"));
  EXPECT_TRUE(std::filesystem::exists(dir / "other.json"));
}

TEST(StageRunner, DoesAStageAgainWhenItsRecordIsDamagedOrGone) {
  Stage stage;
  stage.run(kInputs);
  const std::string good = test::read_file(stage.record());
  for (const std::string& bad :
       {std::string(), good.substr(0, good.size() / 2), std::string("[]"), std::string("{\"seconds\": 1}"),
        std::string(R"({"inputs_hash": "xxh3:00000000000000000000000000000000", "seconds": 1})")}) {
    test::write_file(stage.record(), bad);
    EXPECT_FALSE(stage.run(kInputs).skipped) << bad;
    EXPECT_TRUE(stage.run(kInputs).skipped) << "after " << bad;
  }
  std::filesystem::remove(stage.record());
  EXPECT_FALSE(stage.run(kInputs).skipped);
}

// A flipped bit is told as what it is; what is the same content may be kept.
TEST(StageRunner, ABitFlippedAnywhereInARecordOnlyCostsDoingTheStageAgain) {
  Stage stage;
  stage.run(kInputs);
  const std::string good = test::read_file(stage.record());
  int kept = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i * 5 % 8)));
    test::write_file(stage.record(), bad);
    const test::CapturedLog log;
    ASSERT_THAT(StageRunner(stage.dir.path()).other_inputs("stage", kInputs), IsEmpty()) << bad;
    if (stage.run(kInputs).skipped) {
      ++kept;
      continue;
    }
    ASSERT_THAT(log.text(), HasSubstr(stage.record().string())) << bad;
    ASSERT_THAT(log.text(), HasSubstr("repeating the stage")) << bad;
    test::write_file(stage.record(), good);
  }
  EXPECT_LE(kept, 2);
}

TEST(StageRunner, AStageThatFailedIsDoneAgainEvenIfItWasOnceDoneFromTheSameInputs) {
  Stage stage;
  stage.run(kInputs);
  {
    StageRunner runner(stage.dir.path());
    const auto fail = [&] {
      runner.run("stage", {{"other", 1}}, {"out"}, [&] {
        test::write_file(stage.dir / "out", "half of another result");
        throw DataError("no space left");
      });
    };
    EXPECT_EQ(test::message_of<DataError>(fail), "no space left");
    EXPECT_TRUE(runner.records().empty());
  }
  EXPECT_FALSE(stage.run({{"other", 1}}).skipped);
  stage.run(kInputs);
  {
    StageRunner runner(stage.dir.path());
    EXPECT_THROW(runner.run("stage", {{"other", 2}}, {"out"}, [] { throw DataError("stopped"); }), DataError);
  }
  EXPECT_FALSE(stage.run(kInputs).skipped) << "the output may be that of the failed work";
}

TEST(StageRunner, KeepsRecordsInTheOrderOfTheStagesAndNoneOnDiskOfThoseThatAlwaysRun) {
  const test::TemporaryDirectory dir;
  StageRunner runner(dir.path());
  int always = 0;
  runner.always("tokenize", [&] { ++always; });
  runner.run("probe", {}, {}, [] {});
  runner.always("tokenize", [&] { ++always; });
  EXPECT_EQ(always, 2);
  std::vector<std::string> names;
  for (const StageRecord& record : runner.records()) names.push_back(record.name);
  EXPECT_THAT(names, ElementsAre("tokenize", "probe", "tokenize"));
  EXPECT_TRUE(std::filesystem::exists(dir / "stages/probe.json"));
  EXPECT_FALSE(std::filesystem::exists(dir / "stages/tokenize.json"));
}

TEST(PeakMemory, IsThatOfAProcessWithTorchInIt) {
  EXPECT_GT(peak_rss_bytes(), std::int64_t{10} << 20);
  EXPECT_LT(peak_rss_bytes(), std::int64_t{1} << 40);
}

}  // namespace
}  // namespace adept::run
