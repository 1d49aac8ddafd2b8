// Whole training runs on tiny data: records, rates, checkpoints.
#include "adept/train/trainer.h"

#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "adept/core/error.h"
#include "adept/core/hash_detail.h"
#include "adept/method/unit_importance.h"
#include "adept/method/unit_rates.h"
#include "adept/nn/allocator.h"
#include "adept/train/matmul_rate.h"
#include "tests/support/environment.h"
#include "tests/support/reads.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using test::Says;
using ::testing::ElementsAre;

TEST(Run, RefusesADirectoryWithCheckpointsUnlessResuming) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 1;
  train(config, model.expanded, dir / "run");
  EXPECT_THAT(test::message_of<ConfigError>([&] { train(config, model.expanded, dir / "run"); }),
              Says("run: contains checkpoint-1...--resume...output_dir"));
}

TEST(Run, RefusesAModelThatWasNotExpandedOrDoesNotFitItsManifest) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  EXPECT_THAT(test::message_of<DataError>([&] { train(small_config(), model.base, dir / "run"); }),
              Says("base: found no adept_expansion.json; expected "));
  fs::copy_file(model.expanded / method::kExpansionManifest, model.base / method::kExpansionManifest);
  EXPECT_THAT(test::message_of<DataError>([&] { train(small_config(), model.base, dir / "run"); }),
              Says("base: config.json ...4 layers...adept_expansion.json ...6"));
}

TEST(Run, OfOneEpochTrainsOnEveryTokenOnceTailsIncluded) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps.reset();
  config.train.num_train_epochs = 1.0;
  TrainerInputs inputs = make_inputs(config, model.expanded, dir / "run");
  inputs.loader = make_loader_of_one_source();
  const TrainSummary summary = Trainer(std::move(inputs)).run(false);
  EXPECT_EQ(summary.total_tokens, 11 + 30 + 7 + 19 + 5 + 5) << "five documents, an EOS after each";
  EXPECT_EQ(summary.steps, 3) << "77 tokens are 10 sequences: two steps of four and one of two";
}

// Trains and exports; the bytes of the weights.
std::string trained_weights(const config::RunConfig& config, const fs::path& model_dir, const fs::path& run_dir,
                            TrainSummary* summary = nullptr) {
  TrainerInputs inputs = make_inputs(config, model_dir, run_dir);
  inputs.eval.push_back(held_out());
  Trainer trainer(std::move(inputs));
  const TrainSummary result = trainer.run(false);
  if (summary != nullptr) *summary = result;
  trainer.export_model(run_dir / "model");
  return test::read_file(run_dir / "model" / "model.safetensors");
}

TEST(Run, IsTheSameWithAndWithoutTheActivationCache) {
  const test::TemporaryDirectory dir;
  struct Setting {
    std::string kind;
    Method method;
    config::DTypeChoice dtype;
  };
  for (const auto& [kind, method, dtype] : {Setting{"llama", Method::kAdept, config::DTypeChoice::kFp32},
                                            Setting{"qwen3", Method::kAdept, config::DTypeChoice::kBf16},
                                            Setting{"qwen3", Method::kTopKLayers, config::DTypeChoice::kFp32}}) {
    const fs::path root = dir / fmt::format("{}-{}-{}", kind, config::to_string(method), to_string(dtype));
    SCOPED_TRACE(root);
    const auto model = test::write_expanded_model(root, kind, {1, 3});
    config::RunConfig config = small_config();
    config.method = method;
    config.compute.dtype = dtype;
    config.top_k_layers.num_layers = 2;
    if (method != Method::kAdept) config.unit_lr.policy = "uniform";
    config.train.max_steps = 30;  // several epochs
    config.train.eval_steps = 4;
    config.train.activation_cache = 0;
    TrainSummary without, with;
    const std::string expected = trained_weights(config, model.expanded, root / "without", &without);
    config.train.activation_cache = 1;
    EXPECT_TRUE(trained_weights(config, model.expanded, root / "with", &with) == expected);
    EXPECT_EQ(without.activation_cache.positions_read, 0);
    EXPECT_GT(with.activation_cache.positions_read, with.total_tokens / 3);
    if (method == Method::kAdept) {
      EXPECT_EQ(test::read_file(root / "with" / "parameter_importance.jsonl"),
                test::read_file(root / "without" / "parameter_importance.jsonl"));
    }
    EXPECT_FALSE(fs::exists(root / "with" / "activations.cache")) << "it is for the time of the training";
  }
}

TEST(Run, IsTheSameWithCheckpointedActivationsAdaptersThatDropInputsIncluded) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  for (const auto method : {Method::kAdept, Method::kFull, Method::kLora}) {
    config::RunConfig config = small_config();
    config.method = method;
    config.lora.alpha = 16;
    config.lora.dropout = 0.3;
    if (method != Method::kAdept) config.unit_lr.policy = "uniform";
    const fs::path root = dir / std::string(config::to_string(method));
    const std::string expected = trained_weights(config, model.expanded, root / "none");
    for (const auto checkpointing : {ActivationCheckpointing::kSelective, ActivationCheckpointing::kFull}) {
      config.train.activation_checkpointing = checkpointing;
      EXPECT_TRUE(trained_weights(config, model.expanded, root / config::to_string(checkpointing)) == expected)
          << config::to_string(method) << " " << config::to_string(checkpointing);
    }
  }
}

TEST(Run, AccountsForItsMemoryAndItsSpeed) {
  nn::use_caching_allocator();
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const TrainSummary summary = train(small_config(), model.expanded, dir / "run");
  EXPECT_EQ(summary.memory.masters, 4 * summary.trained_parameters);
  EXPECT_GT(summary.memory.activations, 0);
  EXPECT_GT(summary.memory.work_space, 0);
  EXPECT_GT(summary.speed_of_light, 0);
  const Json json = to_json(summary);
  EXPECT_EQ(json["memory_bytes"]["total"], summary.memory.peak);
  EXPECT_GT(lines_of(dir / "run" / "trainer_log.jsonl").back()["speed_of_light"].get<double>(), 0);
}

TEST(Run, TellsWhatItHasReadOfEachSourceAlsoWhenItIsResumed) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const config::RunConfig config = small_config();
  const auto expect_what_it_read = [&](const Json& found, std::int64_t before) {
    ASSERT_EQ(found.size(), 2U);
    for (std::int64_t source = 0; source < 2; ++source) {
      std::int64_t tokens = 0, sequences = 0;
      data::TrainLoader again = make_loader(config);
      if (before > 0) again.next_step(before);
      for (const data::Sequence& sequence : again.next_step(48)) {
        tokens += sequence.source == source ? std::ssize(sequence.tokens) : 0;
        sequences += sequence.source == source ? 1 : 0;
      }
      const Json& use = found.at(again.source_name(source));
      EXPECT_EQ(use.at("tokens"), tokens);
      EXPECT_EQ(use.at("sequences"), sequences);
      EXPECT_DOUBLE_EQ(use.at("epochs").get<double>(),
                       static_cast<double>(sequences) / static_cast<double>(again.sequences_per_epoch(source)));
    }
  };
  expect_what_it_read(to_json(train(config, model.expanded, dir / "whole"))["train_sources"], 0);
  copy_killed_after(dir / "whole", dir / "killed", 5);
  expect_what_it_read(to_json(train(config, model.expanded, dir / "killed", true))["train_sources"], 0);
  TrainerInputs inputs = make_inputs(config, model.expanded, dir / "continued");
  inputs.loader.next_step(20);
  expect_what_it_read(to_json(Trainer(std::move(inputs)).run(false))["train_sources"], 20);
}

TEST(Run, RaisesTheKeptRateOfTheMachineWhereAStepIsFaster) {
  const test::TemporaryDirectory dir;
  const test::ScopedVariable cache("XDG_CACHE_HOME", dir.path().string());
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  keep_matmul_rate(1.0, at::kFloat, at::kCPU, matmul_rate_file());
  const TrainSummary summary = train(small_config(), model.expanded, dir / "run");
  EXPECT_GT(matmul_rate(at::kFloat, at::kCPU, matmul_rate_file()), 1.0);
  EXPECT_LE(summary.speed_of_light, 1.0);
}

TEST(Run, CountsTheNecessaryOperationsOfItsSequencesNotOfTheLongestPossible) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const auto necessary_flops = [&](std::int64_t seq_len) {
    config::RunConfig config = small_config();
    config.seq_len = seq_len;
    config.train.max_steps.reset();
    config.train.num_train_epochs = 1.0;
    const fs::path run_dir = dir / std::to_string(seq_len);
    TrainerInputs inputs = make_inputs(config, model.expanded, run_dir);
    inputs.loader =
        data::TrainLoader({{.dataset = dataset_of("domain", {7}, 1)}}, {.seq_len = seq_len, .eos = 2, .seed = 7});
    Trainer(std::move(inputs)).run(false);
    return read_json(run_dir / "checkpoint-1" / "trainer_state.json").at("necessary_flops").get<double>();
  };
  const double of_whole_sequence = necessary_flops(8);
  EXPECT_GT(of_whole_sequence, 0);
  EXPECT_EQ(necessary_flops(16), of_whole_sequence);
}

TEST(Run, HashesTheFilesOfItsModelOnceAndFrozenWeightsInMemoryAtEverySave) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  const fs::path file = model.expanded / "model.safetensors";
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // a change a moment ago is not taken for settled
  const auto weights = static_cast<std::int64_t>(fs::file_size(file));
  config::RunConfig config = small_config();
  config.train.activation_cache = 0;  // which hashes what it keeps
  const auto hashed_by = [](const auto& work) {
    const std::int64_t before = adept::detail::hashed_bytes();
    work();
    return adept::detail::hashed_bytes() - before;
  };
  Trainer trainer(make_inputs(config, model.expanded, dir / "run"));
  TrainSummary summary;
  const std::int64_t by_run = hashed_by([&] { summary = trainer.run(false); });
  const std::int64_t saved = 12 * 3 * 4 * summary.trained_parameters;  // masters and moments
  const std::int64_t frozen = weights - 4 * summary.trained_parameters;
  EXPECT_GE(by_run, saved + 12 * frozen);  // once at the start and 12 times, less the header of the file
  EXPECT_LT(by_run, saved + 14 * frozen) << "the weights of the model are hashed again";
  const auto again = [&] {
    io::model_identity(io::WeightFiles::open(model.expanded));
    Trainer(make_inputs(config, model.expanded, dir / "other"));
  };
  EXPECT_LT(hashed_by(again), weights / 2) << "the weights are hashed again";
}

TEST(Run, CountsWhatIsTrained) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 1;
  const TrainSummary summary = train(config, model.expanded, dir / "run");
  // A layer: q 24x24, k and v 8x24, o 24x24, gate, up and down 36x24, two norms of 24.
  const std::int64_t layer = 2 * 24 * 24 + 2 * 8 * 24 + 3 * 36 * 24 + 2 * 24;
  EXPECT_EQ(summary.trained_parameters, 2 * layer);
  EXPECT_EQ(summary.all_parameters, 6 * layer + 2 * 53 * 24 + 24);
  const Json json = to_json(summary);
  EXPECT_EQ(json["trained_parameters"], 2 * layer);
  EXPECT_EQ(json["train_steps"], 1);
  EXPECT_EQ(json["train_loss"], summary.train_loss);
  EXPECT_EQ(json["final_loss"], summary.final_loss);
}

TEST(Run, LowersTheLossOnWhatItTrainsOn) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "qwen3", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 60;
  config.train.save_steps = 0;
  config.train.logging_steps = 5;
  train(config, model.expanded, dir / "run");
  const auto log = lines_of(dir / "run" / "trainer_log.jsonl");
  ASSERT_EQ(log.size(), 12U);
  EXPECT_LT(log.back()["loss"].get<double>(), 0.9 * log.front()["loss"].get<double>());
}

TEST(Log, HoldsTheScheduledRateAndTheCountsOfEachLine) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.lr_scheduler = optim::ScheduleKind::kLinear;
  config.train.warmup_steps = 2;
  config.train.min_lr_ratio = 0.0;
  config.train.max_steps = 6;
  config.train.logging_steps = 1;
  train(config, model.expanded, dir / "run");
  const auto log = lines_of(dir / "run" / "trainer_log.jsonl");
  ASSERT_EQ(log.size(), 6U);
  const std::vector<double> factors = {0.5, 1.0, 1.0, 0.75, 0.5, 0.25};
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(log[i]["current_steps"], i + 1);
    EXPECT_EQ(log[i]["total_steps"], 6);
    EXPECT_DOUBLE_EQ(log[i]["lr"].get<double>(), 1e-2 * factors[i]) << i;
    EXPECT_GT(log[i]["loss"].get<double>(), 0);
    EXPECT_GT(log[i]["grad_norm"].get<double>(), 0);
    EXPECT_EQ(log[i]["nonfinite_steps"], 0);
    EXPECT_GT(log[i]["total_tokens"].get<std::int64_t>(), tokens);
    tokens = log[i]["total_tokens"].get<std::int64_t>();
    EXPECT_NEAR(log[i]["percentage"].get<double>(), 100.0 * static_cast<double>(i + 1) / 6, 1e-9);
  }
  EXPECT_GT(log.back()["epoch"].get<double>(), log.front()["epoch"].get<double>());
}

// A run of five steps whose model stays the base, logged after steps 3 and 5.
struct RunAtRateZero {
  RunAtRateZero() {
    config.train.learning_rate = 0;
    config.train.max_steps = 5;
    config.train.logging_steps = 3;
    train(config, model.expanded, dir / "run");
    log = lines_of(dir / "run" / "trainer_log.jsonl");
    EXPECT_EQ(log.size(), 2U);
  }

  // What the base predicts of these sequences.
  LossSum losses_of(std::span<const data::Sequence> sequences) const {
    const at::NoGradGuard no_grad;
    const model::Batch batch = model::to_batch(data::make_batch(sequences), at::kCPU);
    const at::Tensor losses = base.token_losses(base.forward(batch.input_ids, batch.context()), batch.targets);
    return {.nats = losses.sum(at::kDouble).item<double>(), .tokens = batch.num_targets};
  }

  const test::TemporaryDirectory dir;
  const test::ExpandedModel model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  std::vector<Json> log;
  const model::Decoder base = test::load_decoder(model.base);
  data::TrainLoader loader = make_loader(config);
};
// Index in the log, and steps since the line before.
constexpr std::pair<std::size_t, int> kLoggedSteps[] = {{0, 3}, {1, 2}};

double mean_of(const LossSum& sum) { return sum.nats / static_cast<double>(sum.tokens); }

TEST(Log, ALineHoldsTheMeanOverTheTokensOfItsSteps) {
  RunAtRateZero run;
  for (const auto& [line, steps] : kLoggedSteps)
    EXPECT_NEAR(run.log.at(line)["loss"].get<double>(), mean_of(run.losses_of(run.loader.next_step(steps * 4))), 1e-4);
}

TEST(Log, ALineHoldsTheLossOfEachSourceWhichTogetherAreTheLoss) {
  RunAtRateZero run;
  for (const auto& [line, steps] : kLoggedSteps) {
    std::map<std::string, LossSum> expected;
    for (const data::Sequence& sequence : run.loader.next_step(steps * 4)) {
      const LossSum alone = run.losses_of({&sequence, 1});
      LossSum& sum = expected[run.loader.source_name(sequence.source)];
      sum.nats += alone.nats;
      sum.tokens += alone.tokens;
    }
    ASSERT_EQ(expected.size(), 2U);
    LossSum all;
    for (const auto& [name, sum] : expected) {
      const double found = run.log.at(line)["loss/" + name].get<double>();
      EXPECT_NEAR(found, mean_of(sum), 1e-5) << name;
      all.nats += found * static_cast<double>(sum.tokens);
      all.tokens += sum.tokens;
    }
    EXPECT_NEAR(run.log.at(line)["loss"].get<double>(), mean_of(all), 1e-6);
  }
}

TEST(Log, HasNoLossOfASourceWithoutTokensAndThatOfTheOnlyOne) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 4;
  config.train.logging_steps = 1;
  config.train.batch_size = 1;
  config.train.grad_accum = 1;
  train(config, model.expanded, dir / "two");
  int missing = 0;
  for (const Json& line : lines_of(dir / "two" / "trainer_log.jsonl")) {
    const bool has_domain = line.at("loss/domain").is_number(), has_replay = line.at("loss/replay").is_number();
    EXPECT_NE(has_domain, has_replay) << "of the one sequence of the step";
    missing += has_replay ? 0 : 1;
  }
  EXPECT_GT(missing, 0);
  TrainerInputs inputs = make_inputs(config, model.expanded, dir / "one");
  inputs.loader = make_loader_of_one_source();
  Trainer(std::move(inputs)).run(false);
  const std::vector<Json> lines = lines_of(dir / "one" / "trainer_log.jsonl");
  EXPECT_EQ(lines.size(), 4U);
  for (const Json& line : lines) EXPECT_NEAR(line.at("loss/domain").get<double>(), line.at("loss").get<double>(), 1e-6);
}

TEST(Log, HoldsEvaluationsUnderTheNameOfEachSet) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.learning_rate = 0;
  config.train.max_steps = 5;
  config.train.eval_steps = 2;
  config.train.logging_steps = 100;
  TrainerInputs inputs = make_inputs(config, model.expanded, dir / "run");
  inputs.eval.push_back({"held_out", data::windows(dataset_of("held_out", {9, 12}, 8), {.seq_len = 8})});
  inputs.eval.push_back({"general", data::windows(dataset_of("general", {20}, 9), {.seq_len = 8})});
  const auto eval = inputs.eval;
  Trainer(std::move(inputs)).run(false);
  const model::Decoder base = test::load_decoder(model.base);
  const auto log = lines_of(dir / "run" / "trainer_log.jsonl");
  ASSERT_EQ(log.size(), 3U) << "evaluations after steps 2 and 4, and the last step";
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(log[i]["current_steps"], 2 * (i + 1));
    for (const eval::EvalSet& set : eval)
      EXPECT_NEAR(log[i]["eval_" + set.name + "_loss"].get<double>(), eval::evaluate(base, set).value("loss"), 1e-4);
    EXPECT_EQ(log[i]["eval_loss"], log[i]["eval_held_out_loss"]) << "the plain key is the first set's";
  }
}

TEST(UnitRates, AreRecordedAtEachUpdateAndFollowTheReferenceFormula) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "qwen3", {1, 3});
  train(small_config(), model.expanded, dir / "run");
  const auto lines = lines_of(dir / "run" / "parameter_importance.jsonl");
  ASSERT_EQ(lines.size(), 3U);
  const model::Decoder start = test::load_decoder(model.expanded);
  const auto units = method::make_units(model.expansion, start);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["step"], 5 * i);
    const auto importance = lines[i]["importance"].get<method::UnitValues>();
    const auto weights = lines[i]["lr_weight"].get<method::UnitValues>();
    EXPECT_EQ(importance.size(), units.size());
    EXPECT_EQ(weights, method::unit_lr_weights("reference", units, importance));
    for (const std::string& unit : test::names_of(units))
      EXPECT_GT(importance.at(unit), 0) << unit << " at step " << 5 * i;
  }
  EXPECT_NE(lines[0]["importance"], lines[1]["importance"]);
  const auto at_start = method::unit_importance(model.expansion, units, start, probe_batches(), Progress::silent());
  EXPECT_EQ(lines[0]["importance"].get<method::UnitValues>(), at_start);
}

TEST(UnitRates, FollowGranularityPolicyAverageAndFactors) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "qwen3", {1, 3});
  config::RunConfig config = small_config();
  config.unit_lr.policy = "normalized";
  config.unit_lr.by_head = true;
  config.unit_lr.ffn_block_size = 5;
  config.unit_lr.floor = 0.2;
  config.unit_lr.ema = 0.25;
  config.unit_lr.factors = {{.units = "*.mlp.*", .factor = 0.5},
                            {.units = "*layers.2.self_attn.q_proj*", .factor = 0.0}};
  train(config, model.expanded, dir / "run");
  const auto units =
      method::make_units(model.expansion, test::load_decoder(model.expanded), {.by_head = true, .ffn_block_size = 5});
  const auto lines = lines_of(dir / "run" / "parameter_importance.jsonl");
  ASSERT_EQ(lines.size(), 3U);
  for (const Json& line : lines) {
    const auto importance = line["importance"].get<method::UnitValues>();
    auto expected = method::unit_lr_weights("normalized", units, importance, 0.2);
    for (auto& [name, weight] : expected) {
      if (name.find(".mlp.") != std::string::npos) weight *= 0.5;
      if (name.find("layers.2.self_attn.q_proj") != std::string::npos) weight = 0;
    }
    EXPECT_EQ(line["lr_weight"].get<method::UnitValues>(), expected);
  }
  const io::WeightFiles start = io::WeightFiles::open(model.expanded);
  Trainer trainer(make_inputs(config, model.expanded, dir / "run"));
  trainer.run(/*resume=*/true);
  trainer.export_model(dir / "out");
  const io::WeightFiles end = io::WeightFiles::open(dir / "out");
  const auto changed = [&](const std::string& name) {
    return !std::ranges::equal(start.at(name).data, end.at(name).data);
  };
  EXPECT_FALSE(changed("model.layers.2.self_attn.q_proj.weight")) << "a factor of 0 changes no bit";
  EXPECT_TRUE(changed("model.layers.5.self_attn.q_proj.weight"));
  config.unit_lr.factors = {{.units = "*.attention.*", .factor = 0.5}};
  EXPECT_THAT(test::message_of<ConfigError>([&] { Trainer(make_inputs(config, model.expanded, dir / "other")); }),
              Says("unit_lr.factors.0.units: found \"*.attention.*\"...no unit; expected "));
}

TEST(UnitRates, OfHeadsAndBlocksResumeBitForBit) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.unit_lr.policy = "normalized";
  config.unit_lr.by_head = true;
  config.unit_lr.ffn_block_size = 3;
  config.unit_lr.ema = 0.5;
  train(config, model.expanded, dir / "whole");
  copy_killed_after(dir / "whole", dir / "resumed", 7);
  train(config, model.expanded, dir / "resumed", /*resume=*/true);
  expect_same_tensors(dir / "resumed", dir / "whole", "checkpoint-12");
}

TEST(UnitRates, OfThePolicyUniformNeedNoProbe) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.unit_lr.policy = "uniform";
  config.train.max_steps = 6;
  TrainerInputs inputs = make_inputs(config, model.expanded, dir / "run");
  inputs.probe.clear();
  Trainer(std::move(inputs)).run(false);
  EXPECT_FALSE(std::filesystem::exists(dir / "run" / "parameter_importance.jsonl"));
  const Json state = read_json(dir / "run" / "checkpoint-6" / "trainer_state.json");
  EXPECT_TRUE(state["unit_importance"].empty());
  EXPECT_FALSE(state["unit_lr_weights"].empty());
  for (const Json& weight : state["unit_lr_weights"]) EXPECT_EQ(weight, 1.0);
}

TEST(Checkpoints, AreMadeAtTheIntervalAndAtTheEndAndPruned) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 10;
  config.train.save_steps = 3;
  const auto checkpoints_of = [&](const char* run) {
    train(config, model.expanded, dir / run);
    std::vector<std::string> names;
    for (const auto& path : list_checkpoints(dir / run)) names.push_back(path.filename());
    return names;
  };
  EXPECT_THAT(checkpoints_of("all"), ElementsAre("checkpoint-10", "checkpoint-9", "checkpoint-6", "checkpoint-3"));
  config.train.save_total_limit = 2;
  EXPECT_THAT(checkpoints_of("two"), ElementsAre("checkpoint-10", "checkpoint-9"));
  config.train.save_steps = 0;
  EXPECT_THAT(checkpoints_of("last"), ElementsAre("checkpoint-10"));
}

}  // namespace
}  // namespace adept::train
