#include "adept/train/trainer_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "tests/support/captured_log.h"
#include "tests/support/tiny_models.h"

namespace adept::train {
namespace {

using ::testing::HasSubstr;

constexpr char kFive[] =
    "{\"step\":1,\"loss\":2.5}\n{\"step\":2}\n{\"step\":2,\"eval_loss\":2.0}\n{\"step\":3}\n{\"step\":4}\n";

std::string kept_of(const std::string& text, std::int64_t last_step) {
  const test::TemporaryDirectory dir;
  test::write_file(dir / "log.jsonl", text);
  const JsonlFile file(dir / "log.jsonl", "step", last_step);
  return test::read_file(dir / "log.jsonl");
}

TEST(JsonlFile, ContinuesAfterTheLastStepByteForByte) {
  EXPECT_EQ(kept_of(kFive, 2), "{\"step\":1,\"loss\":2.5}\n{\"step\":2}\n{\"step\":2,\"eval_loss\":2.0}\n");
  EXPECT_EQ(kept_of(kFive, 4), kFive);
  EXPECT_EQ(kept_of(kFive, 100), kFive);
  EXPECT_EQ(kept_of(kFive, 0), "");
  EXPECT_EQ(kept_of(kFive, -1), "");
}

TEST(JsonlFile, DropsWhatIsDoneAgainOfTheLastStep) {
  const test::TemporaryDirectory dir;
  test::write_file(dir / "log.jsonl", kFive);
  const JsonlFile file(dir / "log.jsonl", "step", 2, "eval_loss");
  EXPECT_EQ(test::read_file(dir / "log.jsonl"), "{\"step\":1,\"loss\":2.5}\n{\"step\":2}\n");
}

TEST(JsonlFile, DropsALastLineThatWasCutShortAndWhatIsNoRecord) {
  const test::CapturedLog log;
  EXPECT_EQ(kept_of("{\"step\":1}\n{\"step\":2,\"lo", 9), "{\"step\":1}\n");
  EXPECT_EQ(kept_of("{\"step\":1}\n{\"step\":2}", 9), "{\"step\":1}\n{\"step\":2}\n");
  EXPECT_EQ(kept_of("{\"step\":1}\n\n[2]\n{\"other\":1}\n{\"step\":\"1\"}\n{\"step\":1.5}\n{\"step\":2}\n", 9),
            "{\"step\":1}\n{\"step\":2}\n");
  EXPECT_THAT(log.text(), ::testing::EndsWith("log.jsonl: dropped 5 damaged line(s)\n"));
  EXPECT_THAT(log.text(), ::testing::Not(HasSubstr(" 1 damaged"))) << "a kill cuts a line short";
}

TEST(JsonlFile, AppendsOneLineEachThatCanBeReadAtOnce) {
  const test::TemporaryDirectory dir;
  JsonlFile file(dir / "log.jsonl", "step", 0);
  EXPECT_EQ(test::read_file(dir / "log.jsonl"), "");
  file.log({{"text", "a\nb"}}, 1);
  EXPECT_EQ(test::read_file(dir / "log.jsonl"), "{\"step\":1,\"text\":\"a\\nb\"}\n");
  file.log(Json::object(), 2);
  EXPECT_EQ(test::read_file(dir / "log.jsonl"), "{\"step\":1,\"text\":\"a\\nb\"}\n{\"step\":2}\n");
}

TEST(JsonlFile, SaysWhichFileCannotBeWritten) {
  const test::TemporaryDirectory dir;
  JsonlFile file(dir / "log.jsonl", "step", 0);
  std::filesystem::remove(dir / "log.jsonl");
  std::filesystem::create_directories(dir / "log.jsonl");
  EXPECT_THAT(test::message_of<DataError>([&] { file.log({{"loss", 1}}, 1); }),
              HasSubstr((dir / "log.jsonl").string() + ": cannot open for writing: Is a directory"));
}

TEST(LogLine, HasTheKeysOfLlamaFactoryAndItsExtras) {
  const test::TemporaryDirectory dir;
  JsonlFile file(dir / "log.jsonl", "current_steps", 0);
  file.log(to_json(LogLine{.percentage = 25,
                           .total_steps = 12,
                           .epoch = 0.5,
                           .elapsed_seconds = 65,
                           .remaining_seconds = 3725,
                           .throughput = 99.5,
                           .total_tokens = 4096,
                           .extra = {{"loss", 2.25}, {"lr", 1e-4}}}),
           3);
  EXPECT_EQ(test::read_file(dir / "log.jsonl"),
            R"({"current_steps":3,"total_steps":12,"loss":2.25,"lr":0.0001,"epoch":0.5,"percentage":25.0,)"
            R"("elapsed_time":"1:05","remaining_time":"1:02:05","throughput":99.5,"total_tokens":4096})"
            "\n");
}

TEST(ImportanceLine, HoldsBothValuesOfEveryUnit) {
  const test::TemporaryDirectory dir;
  JsonlFile file(dir / "log.jsonl", "step", 0);
  file.log(importance_line({{"a", 0.25}, {"b", 0.5}}, {{"a", 2.0}, {"b", 0.0}}), 5);
  EXPECT_EQ(test::read_file(dir / "log.jsonl"),
            "{\"step\":5,\"importance\":{\"a\":0.25,\"b\":0.5},\"lr_weight\":{\"a\":2.0,\"b\":0.0}}\n");
}

}  // namespace
}  // namespace adept::train
