// A run that becomes longer, is split otherwise, or goes on with the data of another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/io/record.h"
#include "adept/train/export_trained.h"
#include "tests/support/captured_log.h"
#include "tests/support/reads.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using test::Says;
using ::testing::AllOf;
using ::testing::HasSubstr;

config::RunConfig constant_config(std::int64_t max_steps) {
  config::RunConfig config = small_config();
  config.train.lr_scheduler = optim::ScheduleKind::kConstant;
  config.train.max_steps = max_steps;
  config.train.logging_steps = 1;
  return config;
}

std::vector<Json> logged(const fs::path& run_dir, const char* key) {
  std::vector<Json> values;
  for (const Json& line : lines_of(run_dir / "trainer_log.jsonl")) values.push_back(line[key]);
  return values;
}

TEST(Extend, ARunAtAConstantRateIsTheLongerRunBitForBit) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  train(constant_config(12), model.expanded, dir / "whole");
  train(constant_config(7), model.expanded, dir / "run");
  const test::CapturedLog log;
  const TrainSummary summary = train(constant_config(12), model.expanded, dir / "run", /*resume=*/true);
  EXPECT_EQ(summary.steps, 12);
  EXPECT_THAT(log.text(), Says("from 7 to 12 steps; from step 8 ...learning rate is 1.00e-02 instead of 1.00e-02"));
  expect_same_tensors(dir / "run", dir / "whole", "checkpoint-12");
  EXPECT_EQ(logged(dir / "run", "loss"), logged(dir / "whole", "loss"));
}

TEST(Extend, EvaluatesAfterTheStepThatWasTheLastAsTheLongerRunDoes) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const auto evaluations = [&](const fs::path& run_dir) {
    std::vector<Json> losses;
    for (const Json& line : lines_of(run_dir / "trainer_log.jsonl"))
      if (line.contains("eval_loss")) losses.push_back({line["current_steps"], line["eval_loss"]});
    return losses;
  };
  const auto run = [&](const fs::path& run_dir, std::int64_t max_steps, bool resume) {
    config::RunConfig config = constant_config(max_steps);
    config.train.eval_steps = 3;
    TrainerInputs inputs = make_inputs(config, model.expanded, run_dir);
    inputs.eval.push_back(held_out());
    Trainer(std::move(inputs)).run(resume);
  };
  run(dir / "whole", 12, false);
  for (const std::int64_t first : {5, 6}) {
    const fs::path run_dir = dir / std::to_string(first);
    run(run_dir, first, false);
    run(run_dir, 12, true);
    EXPECT_EQ(evaluations(run_dir), evaluations(dir / "whole")) << first;
  }
  EXPECT_EQ(evaluations(dir / "whole").size(), 3U);
}

TEST(Extend, TheNewScheduleHoldsFromTheCurrentStepOn) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.lr_scheduler = optim::ScheduleKind::kLinear;
  config.train.warmup_steps = 0;
  config.train.min_lr_ratio = 0;
  config.train.logging_steps = 1;
  config.train.max_steps = 4;
  train(config, model.expanded, dir / "run");
  config.train.max_steps = 8;
  train(config, model.expanded, dir / "run", /*resume=*/true);
  const std::vector<Json> rates = logged(dir / "run", "lr");
  const std::vector<double> shares = {1, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125};
  ASSERT_EQ(rates.size(), shares.size());
  for (std::size_t i = 0; i < shares.size(); ++i) EXPECT_DOUBLE_EQ(rates[i].get<double>(), 1e-2 * shares[i]) << i;
}

TEST(Extend, ByEpochsReadsEachOfThemWhole) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = constant_config(1);
  config.train.max_steps.reset();
  const auto run = [&](double epochs, bool resume) {
    config.train.num_train_epochs = epochs;
    TrainerInputs inputs = make_inputs(config, model.expanded, dir / "run");
    inputs.loader = make_loader_of_one_source();
    return Trainer(std::move(inputs)).run(resume);
  };
  EXPECT_EQ(run(1, false).steps, 3) << "ten sequences: two steps of four and one of two";
  const TrainSummary twice = run(2, true);
  EXPECT_EQ(twice.total_tokens, 2 * 77);
  EXPECT_EQ(twice.steps, 6) << "the second epoch is two steps of four and one of two as well";
  EXPECT_THAT(test::message_of<ConfigError>([&] { run(1.5, true); }),
              Says("train.num_train_epochs: found 1.5...2.000 epochs; expected at least...output_dir"));
}

TEST(Extend, NotBelowWhatIsDone) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  train(constant_config(6), model.expanded, dir / "run");
  EXPECT_EQ(train(constant_config(6), model.expanded, dir / "run", true).steps, 6);
  const auto expected = HasSubstr("train.max_steps: found 5, but ");
  EXPECT_THAT(test::message_of<ConfigError>([&] { train(constant_config(5), model.expanded, dir / "run", true); }),
              AllOf(expected, HasSubstr("the run already has 6 steps; expected at least that many, or another")));
  EXPECT_THAT(test::message_of<ConfigError>([&] { check_not_shorter(dir / "run", constant_config(5)); }),
              AllOf(expected, HasSubstr("checkpoint-6 already has 6 steps")));
  check_same_training(dir / "run", constant_config(60), std::nullopt);
}

TEST(Resplit, IntoOtherMicroBatchesReadsTheSameData) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = constant_config(6);
  train(config, model.expanded, dir / "whole");
  for (const auto& [batch_size, grad_accum] : {std::pair{4, 1}, {1, 4}}) {
    const fs::path run_dir = dir / std::to_string(batch_size);
    copy_killed_after(dir / "whole", run_dir, 3);
    config.train.batch_size = batch_size;
    config.train.grad_accum = grad_accum;
    train(config, model.expanded, run_dir, /*resume=*/true);
    EXPECT_EQ(logged(run_dir, "total_tokens"), logged(dir / "whole", "total_tokens"));
    const std::vector<Json> found = logged(run_dir, "loss"), expected = logged(dir / "whole", "loss");
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i)
      EXPECT_NEAR(found[i].get<double>(), expected[i].get<double>(), 1e-4) << i;
  }
  config.train.batch_size = 4;
  config.train.grad_accum = 2;
  EXPECT_THAT(test::message_of<ConfigError>([&] { train(config, model.expanded, dir / "whole", true); }),
              HasSubstr("\n  train.batch_size x grad_accum x processes: was 4, now 8"));
}

TEST(ContinueData, StartsWhereTheRunStoppedThatMadeTheModel) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const config::RunConfig config = constant_config(3);
  Trainer first(make_inputs(config, model.expanded, dir / "first"));
  first.run(false);
  first.export_model(dir / "model");
  const Json position = io::read_record(dir / "model" / method::kTrainingRecord)[kDataPosition];
  const auto inputs = [&](const char* run, std::int64_t steps) {
    TrainerInputs next = make_inputs(constant_config(steps), dir / "model", dir / run);
    next.loader.load_state(position, "model");
    return next;
  };
  const TrainSummary summary = Trainer(inputs("second", 2)).run(false);
  EXPECT_EQ(summary.steps, 2);
  data::TrainLoader whole = make_loader(config);
  whole.next_step(5 * 4);
  EXPECT_EQ(io::read_record(dir / "second" / "checkpoint-2" / "trainer_state.json")["loader"], whole.state());
  Trainer(inputs("second", 4)).run(true);
  whole.next_step(2 * 4);
  EXPECT_EQ(io::read_record(dir / "second" / "checkpoint-4" / "trainer_state.json")["loader"], whole.state());
  EXPECT_THAT(test::message_of<ConfigError>(
                  [&] { Trainer(make_inputs(constant_config(4), dir / "model", dir / "second")).run(true); }),
              HasSubstr("\n  first_sequence: was 12, now 0"));
}

}  // namespace
}  // namespace adept::train
