#include "adept/train/checkpoint.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "adept/core/error.h"
#include "adept/io/atomic_file.h"
#include "adept/io/record.h"
#include "tests/support/captured_log.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"

namespace adept::train {
namespace {

using test::Says;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<std::string> kFiles = {"trainable.safetensors", "optimizer.safetensors", "trainer_state.json"};

optim::AdamW make_optimizer(std::vector<std::int64_t> matrix = {3, 2}) {
  const std::vector<optim::Parameter> parameters = {{.name = "b.matrix", .master = at::zeros(matrix)},
                                                    {.name = "a.gain", .master = at::zeros({4})}};
  return optim::AdamW(parameters, {});
}

// Fills masters and moments with values that depend on `seed`.
void fill(optim::AdamW& optimizer, std::uint64_t seed) {
  at::manual_seed(seed);
  for (const optim::Parameter& p : optimizer.parameters()) {
    p.master.copy_(at::randn(p.master.sizes()));
    optimizer.moments().at(p.name).exp_avg.copy_(at::randn(p.master.sizes()));
    optimizer.moments().at(p.name).exp_avg_sq.copy_(at::randn(p.master.sizes()).square());
  }
  optimizer.set_num_updates(static_cast<std::int64_t>(seed) * 10);
}

std::map<std::string, at::Tensor> contents(const optim::AdamW& optimizer) {
  std::map<std::string, at::Tensor> tensors;
  for (const optim::Parameter& p : optimizer.parameters()) {
    tensors["master." + p.name] = p.master.clone();
    tensors["first." + p.name] = optimizer.moments().at(p.name).exp_avg.clone();
    tensors["second." + p.name] = optimizer.moments().at(p.name).exp_avg_sq.clone();
  }
  return tensors;
}

bool same_contents(const optim::AdamW& optimizer, const std::map<std::string, at::Tensor>& expected) {
  for (const auto& [name, tensor] : contents(optimizer))
    if (!test::same_bits(tensor, expected.at(name))) return false;
  return true;
}

TrainerState make_state(std::int64_t step) {
  return {.step = step,
          .total_steps = 12,
          .evaluation_due = step == 2,
          .total_tokens = 1LL << 40,
          .nonfinite_in_row = 1,
          .nonfinite_total = 7,
          .train_seconds = 12.345678901234567,
          .necessary_flops = 7.654321098765432e15,
          .loss_sum = 0.1 + 0.2,
          .loss_tokens = 321,
          .source_losses = {{"a", {.nats = 0.1 + 0.7, .tokens = 300}}, {"b", {}}},
          .last_loss = 1.0 / 3.0,
          .loader = {{"sequences", 17}, {"sources", {{"a", {{"index", 3}}}}}},
          .unit_importance = {{"a.gain", 1e-300}, {"b.matrix", 2.0 / 3.0}},
          .unit_lr_weights = {{"a.gain", 2.0}, {"b.matrix", 0.0}}};
}

void expect_equal(const TrainerState& a, const TrainerState& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.total_steps, b.total_steps);
  EXPECT_EQ(a.evaluation_due, b.evaluation_due);
  EXPECT_EQ(a.total_tokens, b.total_tokens);
  EXPECT_EQ(a.nonfinite_in_row, b.nonfinite_in_row);
  EXPECT_EQ(a.nonfinite_total, b.nonfinite_total);
  EXPECT_EQ(a.train_seconds, b.train_seconds);
  EXPECT_EQ(a.necessary_flops, b.necessary_flops);
  EXPECT_EQ(a.loss_sum, b.loss_sum);
  EXPECT_EQ(a.loss_tokens, b.loss_tokens);
  EXPECT_EQ(a.source_losses, b.source_losses);
  EXPECT_EQ(a.last_loss, b.last_loss);
  EXPECT_EQ(a.loader, b.loader);
  EXPECT_EQ(a.unit_importance, b.unit_importance);
  EXPECT_EQ(a.unit_lr_weights, b.unit_lr_weights);
}

RunIdentity make_identity() {
  return {.model = {.weights = "xxh3:model", .config = "xxh3:config", .tokenizer = "xxh3:tokenizer"},
          .frozen_hash = "xxh3:frozen",
          .config = {{"seed", 42}, {"train", {{"learning_rate", 2e-4}, {"batch_size", 4}}}}};
}

std::filesystem::path save(const std::filesystem::path& dir, const TrainerState& state, const optim::AdamW& optimizer) {
  optim::WholeTensors tensors(optimizer.state());
  return save_checkpoint(dir, state, make_identity(), optimizer, tensors);
}

// Two checkpoints, of steps 1 and 2.
struct TwoCheckpoints {
  test::TemporaryDirectory dir;
  optim::AdamW optimizer = make_optimizer();
  std::map<std::string, at::Tensor> first, second;
  std::filesystem::path older = dir / "checkpoint-1", newer = dir / "checkpoint-2";

  TwoCheckpoints() {
    fill(optimizer, 1);
    first = contents(optimizer);
    save(dir.path(), make_state(1), optimizer);
    fill(optimizer, 2);
    second = contents(optimizer);
    save(dir.path(), make_state(2), optimizer);
    fill(optimizer, 3);
  }
  std::optional<TrainerState> load() { return load_newest_checkpoint(dir.path(), make_identity(), optimizer); }
};

TEST(Checkpoint, ComesBackBitForBit) {
  const test::TemporaryDirectory dir;
  optim::AdamW saved = make_optimizer();
  fill(saved, 1);
  const float infinity = std::numeric_limits<float>::infinity();
  saved.parameters()[1].master.copy_(at::tensor({-0.0F, 1e-42F, infinity, std::nanf("")}));
  const auto path = save(dir.path(), make_state(5), saved);
  EXPECT_EQ(path, dir / "checkpoint-5");
  for (const std::string& file : kFiles) EXPECT_TRUE(std::filesystem::exists(path / file)) << file;
  optim::AdamW loaded = make_optimizer();
  const auto state = load_newest_checkpoint(dir.path(), make_identity(), loaded);
  ASSERT_TRUE(state.has_value());
  expect_equal(*state, make_state(5));
  EXPECT_TRUE(same_contents(loaded, contents(saved)));
  EXPECT_EQ(loaded.num_updates(), 10);
}

TEST(Checkpoint, OfTheSameStepReplacesTheOldOne) {
  TwoCheckpoints c;
  const auto third = contents(c.optimizer);
  save(c.dir.path(), make_state(2), c.optimizer);
  fill(c.optimizer, 4);
  EXPECT_EQ(c.load()->step, 2);
  EXPECT_TRUE(same_contents(c.optimizer, third));
}

TEST(Checkpoint, ThereIsNothingToLoadInAnEmptyOrMissingDirectory) {
  const test::TemporaryDirectory dir;
  optim::AdamW optimizer = make_optimizer();
  EXPECT_FALSE(load_newest_checkpoint(dir.path(), make_identity(), optimizer).has_value());
  EXPECT_FALSE(load_newest_checkpoint(dir / "missing", make_identity(), optimizer).has_value());
}

TEST(Checkpoint, ABitFlippedAnywhereIsDetectedAndTheOlderOneIsTaken) {
  TwoCheckpoints c;
  for (const std::string& file : kFiles) {
    SCOPED_TRACE(file);
    const std::string good = test::read_file(c.newer / file);
    int harmless = 0;
    std::string places;
    for (std::size_t i = 0; i < good.size(); i += file == "trainer_state.json" ? 3 : 1) {
      const test::CapturedLog log;
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << (i * 5 % 8)));
      test::write_file(c.newer / file, bad);
      fill(c.optimizer, 3);
      const auto state = c.load();
      ASSERT_TRUE(state.has_value()) << i;
      if (state->step == 2) {  // such as 1e-300 written 1E-300: the same state
        expect_equal(*state, make_state(2));
        ASSERT_TRUE(same_contents(c.optimizer, c.second)) << i;
        ++harmless;
        places += fmt::format("{}: {} -> {}\n", i, good.substr(i - std::min<std::size_t>(i, 9), 19), bad[i]);
        continue;
      }
      ASSERT_EQ(state->step, 1) << i;
      ASSERT_TRUE(same_contents(c.optimizer, c.first)) << i;
      ASSERT_THAT(log.text(), HasSubstr(c.newer.string() + ": skipped, because")) << i;
      ASSERT_THAT(log.text(), HasSubstr("resuming from " + c.older.string())) << i;
    }
    EXPECT_LE(harmless, file == "trainer_state.json" ? 3 : 0) << places;
    test::write_file(c.newer / file, good);
    EXPECT_EQ(c.load()->step, 2);
  }
}

TEST(Checkpoint, CutShortOrMissingFilesAreDetectedAndTheOlderOneIsTaken) {
  TwoCheckpoints c;
  for (const std::string& file : kFiles) {
    SCOPED_TRACE(file);
    const std::string good = test::read_file(c.newer / file);
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{9},
                                   good.size() / 2, good.size() - 2}) {
      const test::CapturedLog log;
      test::write_file(c.newer / file, good.substr(0, size));
      fill(c.optimizer, 3);
      EXPECT_EQ(c.load()->step, 1) << size;
      EXPECT_TRUE(same_contents(c.optimizer, c.first)) << size;
      EXPECT_THAT(log.text(), HasSubstr(file));
    }
    std::filesystem::remove(c.newer / file);
    const test::CapturedLog log;
    EXPECT_EQ(c.load()->step, 1);
    test::write_file(c.newer / file, good + " junk");
    EXPECT_EQ(c.load()->step, 1);
    test::write_file(c.newer / file, good);
    EXPECT_EQ(c.load()->step, 2);
  }
}

TEST(Checkpoint, FilesOfTwoCheckpointsDoNotMix) {
  for (const std::string file : {"trainable.safetensors", "optimizer.safetensors"}) {
    TwoCheckpoints c;
    const test::CapturedLog log;
    std::filesystem::copy_file(c.older / file, c.newer / file, std::filesystem::copy_options::overwrite_existing);
    EXPECT_EQ(c.load()->step, 1);
    EXPECT_THAT(log.text(), HasSubstr("does not match its checksum"));
  }
}

TEST(Checkpoint, IfAllAreDamagedThatIsSaidAndNothingIsLoaded) {
  TwoCheckpoints c;
  const test::CapturedLog log;
  const auto before = contents(c.optimizer);
  std::filesystem::remove(c.older / "trainer_state.json");
  test::write_file(c.newer / "optimizer.safetensors", "x");
  EXPECT_THAT(test::message_of<DataError>([&] { c.load(); }),
              HasSubstr(c.dir.path().string() + ": none of the 2 checkpoints is intact"));
  EXPECT_TRUE(same_contents(c.optimizer, before));
  EXPECT_THAT(log.text(), HasSubstr((c.newer / "optimizer.safetensors").string()));
  EXPECT_THAT(log.text(), HasSubstr((c.older / "trainer_state.json").string()));
}

TEST(Checkpoint, OfAnotherRunIsRefusedWithEverythingThatDiffers) {
  TwoCheckpoints c;
  const auto before = contents(c.optimizer);
  const auto refusal = [&](const RunIdentity& identity) {
    return test::message_of<ConfigError>([&] { load_newest_checkpoint(c.dir.path(), identity, c.optimizer); });
  };
  RunIdentity other = make_identity();
  other.model.weights = "xxh3:other";
  other.frozen_hash = "xxh3:follows";
  other.config["train"]["learning_rate"] = 1e-3;
  other.config["train"].erase("batch_size");
  other.config["dtype"] = "bf16";
  const std::string message = refusal(other);
  EXPECT_THAT(message, HasSubstr("checkpoint-2: belongs to a different run"));
  EXPECT_THAT(message, HasSubstr("\n  model.weights: has changed\n"));
  EXPECT_THAT(message, Not(HasSubstr("frozen"))) << "another model has other frozen weights";
  EXPECT_THAT(message, HasSubstr("\n  train.learning_rate: was 0.0002, now 0.001"));
  EXPECT_THAT(message, HasSubstr("\n  train.batch_size: was 4, now absent"));
  EXPECT_THAT(message, HasSubstr("\n  dtype: was absent, now \"bf16\""));
  EXPECT_THAT(message, Not(HasSubstr("seed")));
  EXPECT_THAT(message, HasSubstr("Resume with the same inputs, or start again in another output_dir."));
  RunIdentity config = make_identity();
  config.model.config = "xxh3:one digit";
  EXPECT_THAT(refusal(config), HasSubstr("\n  model.config.json: has changed\n"));
  RunIdentity frozen = make_identity();
  frozen.frozen_hash = "xxh3:changed";
  EXPECT_THAT(refusal(frozen), HasSubstr("frozen weights: were \"xxh3:frozen\", now xxh3:changed"));
  EXPECT_TRUE(same_contents(c.optimizer, before)) << "a refused checkpoint was loaded";
}

TEST(Checkpoint, OfOtherTensorsIsNotLoaded) {
  TwoCheckpoints c;
  const test::CapturedLog log;
  optim::AdamW other = make_optimizer({2, 3});
  EXPECT_THROW(load_newest_checkpoint(c.dir.path(), make_identity(), other), DataError);
  EXPECT_THAT(log.text(), HasSubstr("tensor b.matrix is F32 [3, 2]; expected F32 [2, 3]"));
}

std::vector<std::string> names_of(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::string> names;
  for (const auto& path : paths) names.push_back(path.filename());
  return names;
}

TEST(CheckpointList, IsNewestFirstByNumberAndIgnoresEverythingElse) {
  const test::TemporaryDirectory dir;
  for (const char* name : {"checkpoint-9", "checkpoint-10", "checkpoint-100", "checkpoint-", "checkpoint-7x",
                           "checkpoint-x7", ".checkpoint-200.tmp-a1b2", "checkpoint-300.tmp-c3", "model"})
    std::filesystem::create_directories(dir / name);
  test::write_file(dir / "checkpoint-500", "a file");
  EXPECT_THAT(names_of(list_checkpoints(dir.path())), ElementsAre("checkpoint-100", "checkpoint-10", "checkpoint-9"));
}

TEST(CheckpointList, HoldsNoDirectoryThatIsBeingWritten) {
  TwoCheckpoints c;
  // What a killed process leaves: the temporary of a checkpoint, under whatever name the writer gives it.
  std::filesystem::path temporary;
  {
    io::AtomicDirectory writing(c.dir / "checkpoint-3");
    temporary = writing.path();
    std::filesystem::copy(c.newer, temporary, std::filesystem::copy_options::recursive);
    std::filesystem::copy(temporary, c.dir / "kept", std::filesystem::copy_options::recursive);
  }
  std::filesystem::rename(c.dir / "kept", temporary);
  EXPECT_THAT(names_of(list_checkpoints(c.dir.path())), ElementsAre("checkpoint-2", "checkpoint-1"));
  EXPECT_EQ(c.load()->step, 2);
}

// Saves checkpoints of these steps.
void save_steps(const std::filesystem::path& dir, const std::vector<int>& steps) {
  optim::AdamW optimizer = make_optimizer();
  fill(optimizer, 1);
  for (const int step : steps) save(dir, make_state(step), optimizer);
}

TEST(CheckpointPruning, KeepsTheNewestAndNeverFewerThanTwo) {
  const auto left_after = [](std::int64_t keep) {
    const test::TemporaryDirectory dir;
    save_steps(dir.path(), {8, 9, 10, 11, 100});
    std::filesystem::create_directories(dir / "model");
    std::set<std::filesystem::path> known_whole = {dir / "checkpoint-100"};
    prune_checkpoints(dir.path(), keep, known_whole);
    EXPECT_TRUE(std::filesystem::exists(dir / "model"));
    return names_of(list_checkpoints(dir.path()));
  };
  EXPECT_THAT(left_after(3), ElementsAre("checkpoint-100", "checkpoint-11", "checkpoint-10"));
  for (const std::int64_t keep : {2, 1, 0, -1})
    EXPECT_THAT(left_after(keep), ElementsAre("checkpoint-100", "checkpoint-11"));
  EXPECT_EQ(left_after(9).size(), 5U);
}

TEST(CheckpointPruning, KeepsTheNewestOfAVerifiedStep) {
  const auto left_after = [](std::int64_t verified) {
    const test::TemporaryDirectory dir;
    save_steps(dir.path(), {8, 9, 10, 11, 100});
    std::set<std::filesystem::path> known_whole;
    prune_checkpoints(dir.path(), 2, known_whole, verified);
    return names_of(list_checkpoints(dir.path()));
  };
  EXPECT_THAT(left_after(100), ElementsAre("checkpoint-100", "checkpoint-11"));
  EXPECT_THAT(left_after(10), ElementsAre("checkpoint-100", "checkpoint-11", "checkpoint-10"));
  EXPECT_THAT(left_after(9), ElementsAre("checkpoint-100", "checkpoint-11", "checkpoint-9"));
  EXPECT_THAT(left_after(7), ElementsAre("checkpoint-100", "checkpoint-11"));
}

TEST(Checkpoints, AreSetAsideUnderNamesThatNoRunResumesFrom) {
  const test::TemporaryDirectory dir;
  for (int i = 0; i < 2; ++i) {  // a second time over those of the first
    save_steps(dir.path(), {3, 5, 6, 10});
    set_aside_checkpoints(dir.path(), 5);
    EXPECT_THAT(names_of(list_checkpoints(dir.path())), ElementsAre("checkpoint-5", "checkpoint-3"));
    EXPECT_TRUE(std::filesystem::exists(dir / "unverified-checkpoint-6"));
    EXPECT_TRUE(std::filesystem::exists(dir / "unverified-checkpoint-10"));
    EXPECT_EQ(newest_checkpoint(dir.path())->step, 5);
  }
}

TEST(Checkpoints, ThatCannotBeSetAsideAreNamed) {
  const test::TemporaryDirectory dir;
  const std::string name = "checkpoint-" + std::string(240, '0') + "6";  // too long with another word in front
  std::filesystem::create_directory(dir / name);
  const test::CapturedLog log;
  set_aside_checkpoints(dir.path(), 5);
  EXPECT_THAT(log.text(), testing::AllOf(testing::HasSubstr((dir / name).string() + ": cannot be renamed to "),
                                         testing::HasSubstr("unverified-" + name + ": File name too long"),
                                         testing::HasSubstr("remove it before you repeat the command")));
  EXPECT_TRUE(std::filesystem::exists(dir / name));
}

TEST(CheckpointPruning, CountsWholeCheckpointsOnly) {
  for (const std::string& file : kFiles) {
    const test::TemporaryDirectory dir;
    save_steps(dir.path(), {1, 2, 3, 4, 5});
    for (const char* damaged : {"checkpoint-3", "checkpoint-5"}) {
      std::string bytes = test::read_file(dir / damaged / file);
      bytes[bytes.size() / 2] ^= 1;
      test::write_file(dir / damaged / file, bytes);
    }
    std::set<std::filesystem::path> known_whole;
    prune_checkpoints(dir.path(), 2, known_whole);
    EXPECT_THAT(names_of(list_checkpoints(dir.path())),
                ElementsAre("checkpoint-5", "checkpoint-4", "checkpoint-3", "checkpoint-2"));
    EXPECT_EQ(known_whole.size(), 2U);
  }
}

TEST(Checkpoint, OfAnotherVersionIsNoDamage) {
  TwoCheckpoints c;
  Json state = io::read_record(c.newer / "trainer_state.json");
  state["version"] = 5;
  io::write_record(c.newer / "trainer_state.json", state);
  EXPECT_THAT(test::message_of<ConfigError>([&] { c.load(); }), Says("trainer_state.json: ...version 5...version 6"));
}

TEST(Checkpoint, HoldsAsManyUnitsAsAFineGranularityMakes) {
  const test::TemporaryDirectory dir;
  optim::AdamW optimizer = make_optimizer();
  TrainerState state = make_state(1);
  for (int i = 0; i < 30'000; ++i) state.unit_importance[fmt::format("unit/block.{}", i)] = i;
  state.unit_lr_weights = state.unit_importance;
  save(dir.path(), state, optimizer);
  expect_equal(load_newest_checkpoint(dir.path(), make_identity(), optimizer).value(), state);
}

}  // namespace
}  // namespace adept::train
