// Where metrics go, and what is left of them after a resume.
#include "adept/train/metric_sinks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <map>
#include <set>

#include "adept/core/error.h"
#include "adept/train/tensorboard.h"
#include "adept/train/trainer_log.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

template <typename T>
T take(std::string_view& bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<std::uint8_t>(bytes);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

// A message's fields; a number is its value, as the bytes of its 64 or 32 bits.
std::multimap<std::uint64_t, std::string> fields_of(std::string_view message) {
  std::multimap<std::uint64_t, std::string> fields;
  while (!message.empty()) {
    const std::uint64_t key = take_varint(message);
    std::uint64_t number = 0;
    std::size_t size = key % 8 == 1 ? 8 : 4;
    if (key % 8 == 0) number = take_varint(message);
    if (key % 8 == 2) size = take_varint(message);
    if (key % 8 == 0) {
      fields.emplace(key / 8, std::string(reinterpret_cast<const char*>(&number), sizeof(number)));
    } else {
      fields.emplace(key / 8, message.substr(0, size));
      message.remove_prefix(size);
    }
  }
  return fields;
}

std::int64_t number_of(const std::string& bytes) {
  std::string_view view = bytes;
  return take<std::int64_t>(view);
}

using Values = std::map<std::string, std::vector<std::pair<std::int64_t, float>>>;  // by tag: step, value

// As TensorBoard reads a folder: its files by name, the events of later steps gone at the start of a session.
Values shown(const fs::path& directory) {
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) files.insert(entry.path());
  Values values;
  for (const fs::path& path : files) {
    const std::string content = test::read_file(path);
    std::string_view bytes = content;
    while (!bytes.empty()) {
      const auto size = take<std::uint64_t>(bytes);
      take<std::uint32_t>(bytes);
      auto event = fields_of(bytes.substr(0, size));
      bytes.remove_prefix(size + 4);
      const std::int64_t step = number_of(event.find(2)->second);
      if (event.contains(7))
        for (auto& [tag, points] : values) std::erase_if(points, [&](const auto& p) { return p.first >= step; });
      if (!event.contains(5)) continue;
      for (const auto& [field, value] : fields_of(event.find(5)->second)) {
        const auto scalar = fields_of(value);
        std::string_view number = scalar.find(2)->second;
        values[scalar.find(1)->second].emplace_back(step, take<float>(number));
      }
    }
  }
  return values;
}

TEST(Crc32c, IsThatOfTheStandard) {
  EXPECT_EQ(detail::crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(detail::crc32c(std::string(32, '\0')), 0x8a9136aaU);  // RFC 3720, B.4
  EXPECT_EQ(detail::crc32c(std::string(32, '\xff')), 0x62a8ab43U);
}

TEST(TensorBoardSink, NamesTagsAsHuggingFaceDoes) {
  const test::TemporaryDirectory dir;
  TensorBoardSink sink(dir / "runs", 0);
  sink.log({{"loss", 2.5}, {"memory_bytes", {{"peak", 7}}}, {"elapsed_time", "0:01"}, {"total_steps", 9}}, 3);
  sink.log({{"eval_terms_loss", 1.5}, {"epoch", 0.5}}, 3);
  sink.log({{"loss", nullptr}, {"epoch", 1}}, 300);
  EXPECT_THAT(shown(dir / "runs"), ElementsAre(Pair("eval/terms_loss", ElementsAre(Pair(3, 1.5F))),
                                               Pair("train/epoch", ElementsAre(Pair(300, 1.0F))),
                                               Pair("train/loss", ElementsAre(Pair(3, 2.5F))),
                                               Pair("train/memory_bytes/peak", ElementsAre(Pair(3, 7.0F)))));
}

TEST(TensorBoardSink, TakesBackWhatAResumedSessionDoesAgain) {
  const test::TemporaryDirectory dir;
  const auto session = [&](std::int64_t begin, std::int64_t end, float loss) {
    TensorBoardSink sink(dir / "runs", begin);
    for (std::int64_t step = begin + 1; step <= end; ++step) sink.log({{"loss", loss}}, step);
  };
  session(0, 2, 1);  // killed before its first checkpoint
  session(0, 4, 2);
  session(2, 5, 3);  // killed before its first checkpoint: it began at 2, as the next does
  session(2, 3, 4);
  EXPECT_THAT(shown(dir / "runs")["train/loss"], ElementsAre(Pair(1, 2.0F), Pair(2, 2.0F), Pair(3, 4.0F)));
}

TEST(TensorBoardSink, ShowsAnEvaluationOnceThatIsMadeAgain) {
  const test::TemporaryDirectory dir;
  TensorBoardSink(dir / "runs", 0).log({{"loss", 3}}, 2);
  for (int session = 0; session < 2; ++session) TensorBoardSink(dir / "runs", 2).log({{"eval_loss", 2}}, 2);
  EXPECT_THAT(shown(dir / "runs"), ElementsAre(Pair("eval/loss", ElementsAre(Pair(2, 2.0F))),
                                               Pair("train/loss", ElementsAre(Pair(2, 3.0F)))));
}

TEST(TensorBoardSink, LeavesOtherFilesAlone) {
  const test::TemporaryDirectory dir;
  fs::create_directories(dir / "runs");
  for (const char* name : {"events.out.tfevents.1.host.2.3", "events.out.tfevents.1.host.from-x", "notes.from-0"})
    test::write_file(dir / "runs" / name, "x");
  const TensorBoardSink sink(dir / "runs", 0);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "runs"), fs::directory_iterator()), 4);
}

TEST(TensorBoardSink, SaysWhichFolderCannotBeMade) {
  const test::TemporaryDirectory dir;
  test::write_file(dir / "runs", "x");
  EXPECT_THAT(test::message_of<DataError>([&] { TensorBoardSink(dir / "runs", 0); }),
              HasSubstr((dir / "runs").string() + ": cannot create the folder"));
}

TEST(MetricSinks, AreTheLogAndThoseThatAreNamed) {
  const test::TemporaryDirectory dir;
  const auto log = [&](const std::vector<std::string>& names) {
    for (const auto& sink : make_metric_sinks(names, {.run_dir = dir.path()})) sink->log({{"loss", 2}}, 1);
  };
  log({});
  EXPECT_FALSE(fs::exists(dir / kTensorBoardFolder));
  log({"tensorboard", "tensorboard"});
  EXPECT_EQ(shown(dir / kTensorBoardFolder)["train/loss"].size(), 1U);
  EXPECT_EQ(test::read_file(dir / kTrainerLog), "{\"current_steps\":1,\"loss\":2}\n");
}

TEST(MetricSinks, OfAnUnknownNameAreRefused) {
  check_metric_sinks(metric_sink_names());
  const std::string message = test::message_of<ConfigError>([] { check_metric_sinks({"wandb"}); });
  EXPECT_THAT(message, HasSubstr("train.report_to: found \"wandb\""));
  for (const std::string& name : metric_sink_names()) EXPECT_THAT(message, HasSubstr(name));
}

TEST(MetricSinks, AreNamedInTheHelpOfTheirKey) {
  const std::vector<std::string> key = {"train.report_to"};
  for (const std::string& name : metric_sink_names()) EXPECT_THAT(config::explain(key, 100), HasSubstr(name + ":"));
}

TEST(MetricSinks, OfAResumedTrainingHoldTheSameAsItsLog) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.logging_steps = 1;
  config.train.eval_steps = 4;
  config.train.report_to = {"tensorboard"};
  const auto train_with_text = [&](const fs::path& run, bool resume) {
    TrainerInputs inputs = make_inputs(config, model.expanded, run);
    inputs.eval.push_back(held_out());
    Trainer(std::move(inputs)).run(resume);
  };
  train_with_text(dir / "run", false);
  for (const std::int64_t n : {4, 7, 9}) {
    SCOPED_TRACE(n);
    copy_killed_after(dir / "run", dir / std::to_string(n), n);
    train_with_text(dir / std::to_string(n), true);
    Values logged;
    for (const Json& line : lines_of(dir / std::to_string(n) / kTrainerLog)) {
      const auto step = line["current_steps"].get<std::int64_t>();
      if (line.contains("loss")) logged["train/loss"].emplace_back(step, line["loss"].get<float>());
      if (line.contains("eval_loss")) logged["eval/loss"].emplace_back(step, line["eval_loss"].get<float>());
    }
    Values found = shown(dir / std::to_string(n) / kTensorBoardFolder);
    EXPECT_EQ(found["train/loss"], logged["train/loss"]);
    EXPECT_EQ(found["eval/loss"], logged["eval/loss"]);
    EXPECT_EQ(found["train/loss"].size(), 12U);
    EXPECT_EQ(found["eval/loss"].size(), 2U);
  }
}

}  // namespace
}  // namespace adept::train
