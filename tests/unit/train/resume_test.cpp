// A run that goes on where it was is the run that never stopped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <memory>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "tests/support/counted_operations.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// A checkpoint's state without what depends on the clock.
Json timeless_state(const fs::path& checkpoint) {
  Json state = read_json(checkpoint / "trainer_state.json");
  state.erase("train_seconds");
  state.erase("necessary_flops");  // less where activations are read from the cache
  state.erase("checksum");
  return state;
}

std::vector<Json> timeless_log(const fs::path& run_dir) {
  std::vector<Json> lines = lines_of(run_dir / "trainer_log.jsonl");
  for (Json& line : lines)
    for (const char* key :
         {"elapsed_time", "remaining_time", "throughput", "speed_of_light", "data_wait", "memory_bytes"})
      line.erase(key);
  return lines;
}

std::string last_of(const config::RunConfig& config) { return "checkpoint-" + std::to_string(*config.train.max_steps); }

// Both runs ended in the same weights, moments, state and records, bit for bit.
void expect_same_run(const fs::path& found, const fs::path& expected, const std::string& checkpoint) {
  expect_same_tensors(found, expected, checkpoint);
  EXPECT_EQ(timeless_state(found / checkpoint), timeless_state(expected / checkpoint));
  EXPECT_EQ(timeless_log(found), timeless_log(expected));
  EXPECT_EQ(test::read_file(found / "parameter_importance.jsonl"),
            test::read_file(expected / "parameter_importance.jsonl"));
}

TEST(Resume, GoesOnBitForBitFromAnyStepAcrossImportanceUpdatesEpochsAndSources) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const config::RunConfig config = small_config();
  const TrainSummary whole = train(config, model.expanded, dir / "whole");
  EXPECT_EQ(whole.steps, 12);
  EXPECT_EQ(lines_of(dir / "whole" / "parameter_importance.jsonl").size(), 3U) << "before steps 0, 5 and 10";
  const Json loader = read_json(dir / "whole" / "checkpoint-12" / "trainer_state.json")["loader"];
  EXPECT_GE(loader["sources"]["domain"]["epoch"], 2) << "the run does not go through several epochs";
  EXPECT_GE(loader["sources"]["replay"]["epoch"], 1);
  for (const std::int64_t n : {1, 4, 5, 6, 9, 11, 12}) {
    SCOPED_TRACE(n);
    const fs::path run = dir / ("resumed-" + std::to_string(n));
    copy_killed_after(dir / "whole", run, n);
    const TrainSummary resumed = train(config, model.expanded, run, /*resume=*/true);
    EXPECT_EQ(resumed.steps, 12);
    EXPECT_EQ(resumed.total_tokens, whole.total_tokens);
    EXPECT_EQ(resumed.final_loss, whole.final_loss);
    EXPECT_EQ(resumed.train_loss, whole.train_loss);
    expect_same_run(run, dir / "whole", last_of(config));
  }
}

TEST(Resume, AfterEverySingleStepInBf16WithBiasesAndATiedHead) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama_biased_tied", {0, 2}, DType::kBF16);
  config::RunConfig config = small_config();
  config.compute.dtype = config::DTypeChoice::kBf16;
  config.train.max_steps = 6;
  config.unit_lr.update_every = 2;
  train(config, model.expanded, dir / "whole");
  for (std::int64_t n = 2; n <= 6; ++n) {
    copy_killed_after(dir / "whole", dir / "one", n - 1);
    train(config, model.expanded, dir / "one", /*resume=*/true);
    expect_same_run(dir / "one", dir / "whole", last_of(config));
    fs::remove_all(dir / "one");
  }
}

TEST(Resume, TakesTheOlderCheckpointWhenTheNewestIsDamagedAndEndsTheSame) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const config::RunConfig config = small_config();
  train(config, model.expanded, dir / "whole");
  copy_killed_after(dir / "whole", dir / "run", 7);
  test::write_file(dir / "run" / "checkpoint-7" / "optimizer.safetensors", "torn");
  train(config, model.expanded, dir / "run", /*resume=*/true);
  expect_same_run(dir / "run", dir / "whole", last_of(config));
}

TEST(Resume, WithoutACheckpointStartsAnew) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const config::RunConfig config = small_config();
  train(config, model.expanded, dir / "whole");
  train(config, model.expanded, dir / "run", /*resume=*/true);
  expect_same_run(dir / "run", dir / "whole", last_of(config));
}

TEST(Resume, OfAFinishedRunChangesNothing) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 3;
  const TrainSummary first = train(config, model.expanded, dir / "run");
  fs::copy(dir / "run", dir / "before", fs::copy_options::recursive);
  const TrainSummary again = train(config, model.expanded, dir / "run", /*resume=*/true);
  EXPECT_EQ(again.steps, 3);
  EXPECT_EQ(again.final_loss, first.final_loss);
  expect_same_run(dir / "run", dir / "before", last_of(config));
}

TEST(Resume, RefusesAnotherConfigurationOtherDataAndAnotherProbe) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 2;
  train(config, model.expanded, dir / "run");
  const auto refusal = [&](TrainerInputs inputs) {
    return test::message_of<ConfigError>([&] { Trainer(std::move(inputs)).run(true); });
  };
  config::RunConfig faster = config;
  faster.train.learning_rate = 2e-2;
  EXPECT_THAT(refusal(make_inputs(faster, model.expanded, dir / "run")),
              HasSubstr("\n  train.learning_rate: was 0.01, now 0.02"));
  TrainerInputs other_data = make_inputs(config, model.expanded, dir / "run");
  other_data.loader = make_loader(config, 5);
  EXPECT_THAT(refusal(std::move(other_data)),
              HasSubstr("source \"domain\": its data (text, tokenizer, tag or excluded documents) has changed"));
  TrainerInputs other_probe = make_inputs(config, model.expanded, dir / "run");
  other_probe.probe = probe_batches(32);
  EXPECT_THAT(refusal(std::move(other_probe)), HasSubstr("\n  probe_text: has changed\n"));
  test::write_expanded_model(dir / "other", "llama", {0, 3});
  EXPECT_THAT(refusal(make_inputs(config, dir / "other" / "expanded", dir / "run")),
              HasSubstr("\n  model.weights: has changed\n"));
  // One digit of what the weights are computed with.
  Json changed = read_json(model.expanded / "config.json");
  changed["rms_norm_eps"] = 2 * changed["rms_norm_eps"].get<double>();
  test::write_file(model.expanded / "config.json", changed.dump(2));
  EXPECT_THAT(refusal(make_inputs(config, model.expanded, dir / "run")),
              AllOf(HasSubstr("\n  model.config.json: has changed\n"), Not(HasSubstr("weights"))));
}

TEST(Resume, TakesOtherIntervalsOfRecordsAndCheckpoints) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  train(config, model.expanded, dir / "whole");
  copy_killed_after(dir / "whole", dir / "run", 6);
  config.train.save_steps = 4;
  config.train.save_total_limit = 2;
  config.train.logging_steps = 1;
  config.train.max_nonfinite_steps = 1;
  train(config, model.expanded, dir / "run", /*resume=*/true);
  expect_same_tensors(dir / "run", dir / "whole", "checkpoint-12");
  EXPECT_EQ(list_checkpoints(dir / "run").size(), 2U);
}

TEST(Interrupt, AtAnyPointLosesNoStepAndNoEvaluation) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 5;
  config.train.eval_steps = 2;
  config.train.save_steps = 0;
  config.train.logging_steps = 1;
  config.train.activation_cache = 0;
  config.eval.batch_size = 1;
  config.unit_lr.update_every = 2;
  const auto trainer = [&](const fs::path& run_dir) {
    TrainerInputs inputs = make_inputs(config, model.expanded, run_dir);
    for (const char* name : {"one", "two"})
      inputs.eval.push_back({name, data::windows(dataset_of(name, {20, 9, 14}, 8), {.seq_len = 8})});
    return std::make_unique<Trainer>(std::move(inputs));
  };
  trainer(dir / "whole")->run(false);
  test::CountedOperations operations;
  const auto ends = [&](std::int64_t interrupt_at, const fs::path& run_dir, bool resume) {
    const std::unique_ptr<Trainer> it = trainer(run_dir);
    return operations.ends(interrupt_at, [&] { it->run(resume); });
  };
  ASSERT_TRUE(ends(-1, dir / "counted", false));
  const std::int64_t total = operations.count();
  constexpr std::int64_t kPoints = 30;
  int interrupted = 0, evaluations_due = 0;
  for (std::int64_t i = 0; i < kPoints; ++i) {
    SCOPED_TRACE(i);
    const fs::path run_dir = dir / std::to_string(i);
    if (!ends(total * i / kPoints, run_dir, false)) {
      ++interrupted;
      const Json state = read_json(list_checkpoints(run_dir).front() / "trainer_state.json");
      evaluations_due += state["evaluation_due"].get<bool>() ? 1 : 0;
      ends(total * (i % 7) / 20, run_dir, true);  // once more, perhaps in the same evaluation
      ASSERT_TRUE(ends(-1, run_dir, true));
    }
    expect_same_run(run_dir, dir / "whole", "checkpoint-5");
    fs::remove_all(run_dir);
  }
  EXPECT_GT(interrupted, kPoints / 2);
  EXPECT_GT(evaluations_due, 1);
}

TEST(Interrupt, SavesAndNamesTheExitCodeAndResumesToTheSameEnd) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the signal stays pending for the rest of the process
  const auto interrupted_run = [] {
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
    Trainer trainer(make_inputs(small_config(), model.expanded, dir / "run"));
    install_signal_handlers();
    std::raise(SIGTERM);
    try {
      trainer.run(false);
    } catch (const InterruptedError& error) {
      fmt::print(stderr, "{}\n{} checkpoint(s)", error.what(), list_checkpoints(dir / "run").size());
      std::exit(static_cast<int>(error.exit_code()));
    }
  };
  EXPECT_EXIT(interrupted_run(), ::testing::ExitedWithCode(143), "SIGTERM.*saved step 0 of 12 in .*run\n1 checkpoint");
}

}  // namespace
}  // namespace adept::train
