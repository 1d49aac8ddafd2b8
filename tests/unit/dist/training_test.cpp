// Training by several processes, one of which has faulty memory.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <functional>

#include "processes.h"
#include "tests/support/bit_flip.h"
#include "tests/support/open_files_left.h"
#include "tests/support/reads.h"
#include "tests/support/sanitizers.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using adept::test::Says;
using dist::test::Outcome;
using dist::test::Process;

constexpr const char* kTrained = "model.layers.5.mlp.down_proj.weight";
constexpr const char* kFrozen = "model.layers.1.mlp.up_proj.weight";
constexpr const char* kLowestTrained = "model.layers.2.self_attn.q_proj.weight";

/// What each of two ranks returned or threw, after `work` with the trainer of `config`; `change` sees the inputs
/// before.
std::vector<Outcome> train_by_two(
    const config::RunConfig& config, const fs::path& model_dir, const fs::path& run_dir,
    const std::function<void(Trainer&)>& work,
    const std::function<void(TrainerInputs&)>& change = [](TrainerInputs&) {}) {
  const std::uint16_t port = dist::test::free_port();
  std::vector<std::unique_ptr<Process>> processes;
  for (int rank = 0; rank < 2; ++rank)
    processes.push_back(std::make_unique<Process>([&, rank]() -> std::string {
      at::set_num_threads(1);
      dist::join(dist::test::launch_of(rank, 2, port), {.timeout = 20});
      try {
        TrainerInputs inputs = make_inputs(config, model_dir, run_dir);
        change(inputs);
        Trainer trainer(std::move(inputs));
        work(trainer);
        dist::world().leave();
        return "ok";
      } catch (const std::exception& error) {
        dist::world().fail(error.what(), 1);
        throw;
      }
    }));
  return {processes[0]->wait(), processes[1]->wait()};
}

config::RunConfig uniform_config_of_two() {
  config::RunConfig config = small_config();
  config.unit_lr.policy = "uniform";
  config.train.max_steps = 4;
  return config;
}

/// Trains with and without verified steps, into folders that begin with `name`.
void expect_verified_steps_change_nothing(config::RunConfig config, const fs::path& model_dir, const fs::path& name) {
  const auto run_dir = [&](int every) { return fs::path(fmt::format("{}-{}", name.string(), every)); };
  for (const int every : {0, 1}) {
    config.train.verify_every = every;
    for (const Outcome& outcome :
         train_by_two(config, model_dir, run_dir(every), [](Trainer& trainer) { trainer.run(false); }))
      EXPECT_EQ(outcome.text, "ok");
  }
  expect_same_tensors(run_dir(0), run_dir(1), "checkpoint-4");
}

TEST(VerifiedRanks, GiveTheSameBitsAsOthers) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  for (const bool deterministic : {false, true}) {
    config::RunConfig config = uniform_config_of_two();
    config.dist.deterministic = deterministic;
    config.compute.dtype = config::DTypeChoice::kBf16;
    expect_verified_steps_change_nothing(config, model.expanded, dir / (deterministic ? "exact" : "fast"));
  }
}

TEST(VerifiedRanks, NameTheOneWhoseMemoryChanges) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  for (const bool deterministic : {false, true}) {
    config::RunConfig config = uniform_config_of_two();
    config.dist.deterministic = deterministic;
    config.train.verify_every = 2;
    const fs::path run_dir = dir / (deterministic ? "exact" : "fast");
    const auto outcomes = train_by_two(config, model.expanded, run_dir, [](Trainer& trainer) {
      int calls = 0;
      adept::test::tensor_of(trainer.decoder(), kLowestTrained).register_hook([&](const at::Tensor&) {
        // The second backward pass of the first computation of step 2.
        if (++calls == 4 && dist::world().rank() == 1)
          adept::test::flip_bit(adept::test::tensor_of(trainer.decoder(), kTrained), 7, 25);
      });
      trainer.run(false);
    });
    for (const Outcome& outcome : outcomes) {
      EXPECT_EQ(outcome.exit_code, 1);
      EXPECT_THAT(outcome.text,
                  Says("step 2 gave other bits ...: rank 1 (...) in micro-batch 2 of 4, its part of the loss is"));
      EXPECT_THAT(outcome.text, testing::Not(testing::HasSubstr("rank 0")));
    }
    EXPECT_TRUE(list_checkpoints(run_dir).empty());
    EXPECT_TRUE(fs::exists(run_dir / "unverified-checkpoint-1"));
  }
}

config::RunConfig config_of_divided_layers() {
  config::RunConfig config = uniform_config_of_two();
  config.method = Method::kFull;
  config.dist.shard_base = true;
  return config;
}

TEST(VerifiedRanks, ThatDivideLayersWhichTrainGiveTheSameBits) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = config_of_divided_layers();
  for (const auto dtype : {config::DTypeChoice::kFp32, config::DTypeChoice::kBf16}) {
    config.compute.dtype = dtype;
    expect_verified_steps_change_nothing(config, model.base, dir / std::string(to_string(dtype)));
  }
}

TEST(VerifiedRanks, ThatDivideLayersNameTheOneWithAnotherGradient) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = config_of_divided_layers();
  config.train.verify_every = 2;
  const auto outcomes = train_by_two(config, model.base, dir / "run", [](Trainer& trainer) {
    int calls = 0;
    adept::test::tensor_of(trainer.decoder(), kLowestTrained).register_hook([&](const at::Tensor& gradient) {
      // The second backward pass of the first computation of step 2.
      return ++calls == 4 && dist::world().rank() == 1 ? gradient * 2 : gradient;
    });
    trainer.run(false);
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.text, Says(fmt::format("step 2 gave other bits ...: rank 1 (...) in micro-batch 4 of 4, the "
                                               "gradient of {}: ... differ",
                                               kLowestTrained)));
    EXPECT_THAT(outcome.text, testing::Not(testing::HasSubstr("rank 0")));
  }
  EXPECT_TRUE(fs::exists(dir / "run" / "unverified-checkpoint-1"));
}

/// Documents that call a function when they are read.
class WatchedStorage : public data::TokenStorage {
 public:
  explicit WatchedStorage(std::function<void()> on_read) : on_read_(std::move(on_read)) {}
  std::int64_t document_tokens(std::int64_t) const override { return 10; }
  std::int64_t document_bytes(std::int64_t) const override { return 10; }
  std::int32_t last_token(std::int64_t) const override { return 5; }
  data::Untrained untrained(std::int64_t) const override { return {}; }
  bool has_untrained() const override { return false; }
  void read(std::int64_t, std::int64_t, std::span<std::int32_t> out) const override {
    on_read_();
    std::fill(out.begin(), out.end(), 5);
  }

 private:
  std::function<void()> on_read_;
};

TEST(Ranks, WithDifferentWeightsSaveNothing) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = uniform_config_of_two();
  config.train.eval_steps = 2;
  std::function<void()> at_evaluation = [] {};  // of the first rank, between the update and the checkpoint of step 2
  const auto outcomes = train_by_two(
      config, model.expanded, dir / "run",
      [&](Trainer& trainer) {
        at_evaluation = [&trainer, calls = 0]() mutable {
          if (calls++ == 0) adept::test::flip_bit(adept::test::tensor_of(trainer.decoder(), kTrained), 7, 0);
        };
        if (!dist::world().is_first()) at_evaluation = [] {};
        trainer.run(false);
      },
      [&](TrainerInputs& inputs) {
        const data::TokenDataset dataset(
            {.name = "held-out", .vocab_size = 53, .counts = {.documents = 2, .tokens = 20}}, "x",
            std::make_shared<WatchedStorage>([&] { at_evaluation(); }));
        inputs.eval = {{"held-out", data::windows(dataset, {.seq_len = 8})}};
      });
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.text, testing::HasSubstr(std::string(kTrained) + ": rank "));
    EXPECT_THAT(outcome.text, Says("Nothing is saved; the last checkpoint is intact"));
    EXPECT_THAT(outcome.text, testing::Not(testing::HasSubstr(kLowestTrained)));
  }
  EXPECT_EQ(list_checkpoints(dir / "run").front().filename(), "checkpoint-1");
}

// Frozen weights in memory: bf16 of files in fp32, which are not mapped.
config::RunConfig frozen_config_of_two(bool shares) {
  config::RunConfig config = uniform_config_of_two();
  config.compute.dtype = config::DTypeChoice::kBf16;
  config.dist.shard_base = shares;
  return config;
}

TEST(Ranks, WhoseFrozenWeightsChangeInMemorySaveNothing) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  for (const bool shares : {false, true}) {
    SCOPED_TRACE(shares);
    const fs::path run_dir = dir / (shares ? "divided" : "whole");
    const auto outcomes = train_by_two(frozen_config_of_two(shares), model.expanded, run_dir, [&](Trainer& trainer) {
      const model::Decoder& decoder = trainer.decoder();
      const at::Tensor changed = shares ? decoder.weights().source->kept(0) : adept::test::tensor_of(decoder, kFrozen);
      int calls = 0;
      adept::test::tensor_of(decoder, kLowestTrained).register_hook([&calls, changed](const at::Tensor&) {
        // The first backward pass of step 3.
        if (++calls == 5 && dist::world().rank() == 1) adept::test::flip_bit(changed, 7, 0);
      });
      trainer.run(false);
    });
    const std::string name = shares ? "part of layer 0 that this rank keeps" : kFrozen;
    for (std::size_t rank = 0; rank < 2; ++rank) {
      EXPECT_EQ(outcomes[rank].exit_code, 1);
      EXPECT_THAT(outcomes[rank].text, Says((rank == 0 ? "rank 1 ended: " : "") +
                                            std::string("frozen weights changed in memory on ... between steps 2 and "
                                                        "3: ") +
                                            name + ": 1 of 1 blocks"));
    }
    EXPECT_EQ(list_checkpoints(run_dir).front().filename(), "checkpoint-2");
  }
}

TEST(Ranks, WithDifferentFrozenWeightsInMemoryDoNotBegin) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  for (const Outcome& outcome : train_by_two(frozen_config_of_two(false), model.expanded, dir / "run", [](Trainer& t) {
         if (dist::world().rank() == 1) adept::test::flip_bit(adept::test::tensor_of(t.decoder(), kFrozen), 7, 0);
         t.run(false);
       })) {
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.text, Says(std::string(kFrozen) + " in memory: rank 0: xxh3:...; rank 1: xxh3:"));
    EXPECT_THAT(outcome.text, Says("The memory or the processor of a machine is probably faulty"));
    EXPECT_THAT(outcome.text, testing::Not(testing::HasSubstr(kTrained)));
  }
  EXPECT_TRUE(list_checkpoints(dir / "run").empty());
}

TEST(Ranks, DropTheirActivationsForACheckpointOfTheFirst) {
  if (adept::test::has_sanitizers()) GTEST_SKIP() << "the sanitizers open files themselves";
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = uniform_config_of_two();
  config.train.max_steps = 20;
  config.train.save_steps = 5;
  for (const Outcome& outcome : train_by_two(config, model.expanded, dir / "run", [](Trainer& trainer) {
         const bool is_first = dist::world().is_first();
         const auto left = is_first ? std::make_unique<adept::test::OpenFilesLeft>(3) : nullptr;
         const TrainSummary summary = trainer.run(false);
         if (summary.activation_cache.positions_computed != 0) throw DataError("a cache was kept");
       }))
    EXPECT_EQ(outcome.text, "ok");
  EXPECT_EQ(list_checkpoints(dir / "run").size(), 4U);
}

TEST(Ranks, EndWithTheReasonWhyTheFirstCannotSave) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  fs::create_directories(dir / "run");
  adept::test::write_file(dir / "run" / "checkpoint-1", "in the way");
  const auto outcomes =
      train_by_two(uniform_config_of_two(), model.expanded, dir / "run", [](Trainer& trainer) { trainer.run(false); });
  for (std::size_t rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(outcomes[rank].exit_code, 1);
    EXPECT_THAT(outcomes[rank].text,
                Says((rank == 1 ? "rank 0 ended: " : "") + std::string("...checkpoint-1: is a file")));
    EXPECT_LT(outcomes[rank].seconds, 15);
  }
}

TEST(Ranks, WithDifferentModelsDoNotBegin) {
  const adept::test::TemporaryDirectory dir;
  const auto model = adept::test::write_expanded_model(dir.path(), "llama", {1, 3});
  const auto outcomes = train_by_two(
      uniform_config_of_two(), model.expanded, dir / "run", [](Trainer& trainer) { trainer.run(false); },
      [&](TrainerInputs& inputs) {
        if (dist::world().is_first()) return;
        fs::copy(model.expanded, dir / "local", fs::copy_options::recursive);
        const fs::path file = dir / "local" / "config.json";
        Json json = parse_json(adept::test::read_file(file), file.string());
        json["rms_norm_eps"] = 1e-4;
        adept::test::write_file(file, json.dump());
        inputs.model_dir = dir / "local";
      });
  for (const Outcome& outcome : outcomes)
    EXPECT_THAT(outcome.text, Says("model: config.json: rank ...: xxh3:... (in ...); rank ..."));
  EXPECT_TRUE(list_checkpoints(dir / "run").empty());
}

}  // namespace
}  // namespace adept::train
