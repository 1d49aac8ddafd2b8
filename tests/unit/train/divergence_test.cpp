// Losses, gradients and weights that are not finite: updates that are skipped, and trainings that end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "adept/core/error.h"
#include "adept/train/divergence.h"
#include "tests/support/reads.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using test::Reads;
using test::Says;
using ::testing::HasSubstr;

// A model that knows one token not: its embedding is infinite, and so every loss of text with it.
constexpr std::int32_t kUnknown = 52;
test::ExpandedModel write_model_with_unknown(const fs::path& dir) {
  test::ExpandedModel model{.base = dir / "base", .expanded = dir / "expanded", .expansion = {}};
  fs::create_directories(model.base);
  const model::ModelConfig config = test::tiny_config(test::config_of_kind("llama"));
  model::Weights weights = test::random_weights(config);
  weights.embed_tokens.weight[kUnknown].fill_(std::numeric_limits<float>::infinity());
  test::save_model(model.base, config, weights, {});
  model.expansion = method::expand_model(model.base, model.expanded, std::vector<int>{1, 3}, std::nullopt);
  return model;
}

// Four steps, of which the first `good` know all their tokens.
TrainerInputs inputs_with_unknown(const config::RunConfig& config, const fs::path& model_dir, const fs::path& run_dir,
                                  std::size_t good) {
  std::vector<std::vector<std::int32_t>> documents;  // one sequence each, with the EOS behind it
  for (std::size_t i = 0; i < 16; ++i) documents.push_back(test::random_tokens(7, i, kUnknown));
  const auto loader = [&] {
    const data::TokenDataset dataset(data::DatasetInfo{.name = "domain", .vocab_size = 53, .counts = {}}, documents,
                                     std::vector<std::int64_t>(16, 28));
    return data::TrainLoader({{.dataset = dataset}}, {.seq_len = 8, .eos = 2, .seed = 7});
  };
  const std::vector<data::Sequence> order = loader().next_step(16);
  for (std::size_t i = 4 * good; i < 16; ++i)
    for (auto& document : documents)
      if (std::equal(document.begin(), document.end(), order[i].tokens.begin())) document[3] = kUnknown;
  TrainerInputs inputs = make_inputs(config, model_dir, run_dir);
  inputs.loader = loader();
  return inputs;
}

config::RunConfig four_uniform_steps() {
  config::RunConfig config = small_config();
  config.unit_lr.policy = "uniform";
  config.train.max_steps = 4;
  return config;
}

TEST(NonFinite, UpdatesAreSkippedAndCountedAndChangeNothing) {
  const test::TemporaryDirectory dir;
  const auto model = write_model_with_unknown(dir.path());
  config::RunConfig config = four_uniform_steps();
  config.train.max_nonfinite_steps = 100;
  config.train.logging_steps = 1;
  const TrainSummary summary = Trainer(inputs_with_unknown(config, model.expanded, dir / "run", 1)).run(false);
  EXPECT_EQ(summary.steps, 4);
  EXPECT_EQ(summary.nonfinite_steps, 3);
  for (const char* file : {"trainable.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(test::read_file(dir / "run" / "checkpoint-4" / file),
              test::read_file(dir / "run" / "checkpoint-1" / file));
  const Json state = read_json(dir / "run" / "checkpoint-4" / "trainer_state.json");
  EXPECT_EQ(state["num_updates"], 1);
  EXPECT_EQ(state["nonfinite_in_row"], 3);
  const auto log = lines_of(dir / "run" / "trainer_log.jsonl");
  ASSERT_EQ(log.size(), 4U);
  EXPECT_EQ(log[3]["nonfinite_steps"], 3);
  EXPECT_TRUE(log[3]["loss"].is_null());
}

TEST(NonFinite, StepsInARowStopTheRunAndKeepTheLastCheckpoint) {
  const test::TemporaryDirectory dir;
  const auto model = write_model_with_unknown(dir.path());
  config::RunConfig config = four_uniform_steps();
  config.train.max_nonfinite_steps = 3;
  const auto message = [&](bool resume) {
    return test::message_of<NonFiniteError>(
        [&] { Trainer(inputs_with_unknown(config, model.expanded, dir / "run", 1)).run(resume); });
  };
  const std::string first = message(false);
  EXPECT_THAT(first, HasSubstr("3 consecutive steps up to step 4 had a non-finite loss or gradient"));
  EXPECT_THAT(first, HasSubstr("updates were skipped"));
  EXPECT_THAT(first, HasSubstr("The last state before them is " + (dir / "run" / "checkpoint-1").string()));
  EXPECT_THAT(first, HasSubstr("in another output_dir with a lower train.learning_rate"));
  EXPECT_EQ(list_checkpoints(dir / "run").size(), 1U) << "none is made while updates are skipped";
  EXPECT_THAT(message(true), HasSubstr("3 consecutive steps up to step 4"));
}

TEST(NonFinite, WithoutACheckpointTheLastGoodStateIsTheInput) {
  const test::TemporaryDirectory dir;
  const auto model = write_model_with_unknown(dir.path());
  config::RunConfig config = four_uniform_steps();
  config.train.max_nonfinite_steps = 1;
  config.train.save_steps = 0;
  EXPECT_THAT(test::message_of<NonFiniteError>(
                  [&] { Trainer(inputs_with_unknown(config, model.expanded, dir / "run", 2)).run(false); }),
              HasSubstr("The last state before them is the model that training started from"));
  EXPECT_TRUE(list_checkpoints(dir / "run").empty());
}

// Rates that make parameters infinite, or so large that no loss is finite; with and without anything that measures.
TEST(Divergence, EndsTheRunWithItsReasonAndNothingOfItIsSaved) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  struct Case {
    double rate;
    Method method;
    const char* policy;
    std::int64_t steps, update_every, eval_steps;
    double max_grad_norm;
  };
  int number = 0;
  for (const Case& c : std::vector<Case>{{1e38, Method::kAdept, "uniform", 1, 500, 0, 1},
                                         {1e38, Method::kAdept, "reference", 4, 1, 0, 1},
                                         {1e38, Method::kAdept, "reference", 4, 500, 1, 1},
                                         {1e39, Method::kFull, "uniform", 1, 500, 0, 1},
                                         {1e39, Method::kFull, "uniform", 4, 500, 1, 0},
                                         {1e300, Method::kLora, "uniform", 1, 500, 0, 1},
                                         {1e300, Method::kTopKLayers, "uniform", 3, 500, 2, 0}}) {
    config::RunConfig config = small_config();
    config.method = c.method;
    config.lora.alpha = 16;
    config.unit_lr.policy = c.policy;
    config.unit_lr.update_every = c.update_every;
    config.train.learning_rate = c.rate;
    config.train.lr_scheduler = optim::ScheduleKind::kConstant;
    config.train.warmup_steps = 0;
    config.train.max_steps = c.steps;
    config.train.eval_steps = c.eval_steps;
    config.train.max_grad_norm = c.max_grad_norm;
    const fs::path run_dir = dir / std::to_string(number++);
    SCOPED_TRACE(run_dir);
    TrainerInputs inputs = make_inputs(config, model.expanded, run_dir);
    if (c.eval_steps > 0) inputs.eval.push_back(held_out());
    Trainer trainer(std::move(inputs));
    const std::string message = test::message_of<NonFiniteError>([&] { trainer.run(false); });
    EXPECT_THAT(message, HasSubstr("the training diverged: after step 1, "));
    if (c.rate > 1e38) {
      EXPECT_THAT(message, HasSubstr("after step 1, model.")) << "the tensor";
    }
    EXPECT_THAT(message, HasSubstr("is not finite (train.learning_rate is 1e+"));
    EXPECT_THAT(message, Says("model that training started from...output_dir...train.learning_rate"));
    EXPECT_TRUE(list_checkpoints(run_dir).empty());
    EXPECT_THROW(trainer.export_model(run_dir / "model"), NonFiniteError);
    EXPECT_FALSE(fs::exists(run_dir / "model"));
  }
}

TEST(Divergence, NamesTheNewestStateFromBeforeTheStep) {
  const test::TemporaryDirectory dir;
  const auto last_before = [&](std::int64_t step) {
    return std::string(DivergenceCheck(100, dir.path()).diverged("x", step).what());
  };
  EXPECT_THAT(last_before(5), Says("model that training started from"));
  for (const char* name : {"checkpoint-3", "checkpoint-5", "checkpoint-10"}) fs::create_directories(dir / name);
  EXPECT_THAT(last_before(5), Reads(fmt::format("...diverged...step 5, x ...train.learning_rate is 100...{}. "
                                                "...output_dir ...train.learning_rate.",
                                                (dir / "checkpoint-3").string())));
}

}  // namespace
}  // namespace adept::train
