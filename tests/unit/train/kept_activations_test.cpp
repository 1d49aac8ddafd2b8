// Which activations a training keeps, and that it gives their disk back.
#include "adept/train/kept_activations.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "adept/core/error.h"
#include "adept/train/methods.h"
#include "tests/support/captured_log.h"
#include "tests/support/open_files_left.h"
#include "tests/support/sanitizers.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

// Of one epoch of both sources of make_loader: 10 and 7 sequences of 8 tokens, the hidden size is 24.
constexpr std::int64_t kEpochBytes = 17 * 8 * 24 * 4;

config::RunConfig uniform_config() {
  config::RunConfig config = small_config();
  config.unit_lr.policy = "uniform";
  return config;
}

// The tokens of the first source come once, those of the second again and again.
data::TrainLoader long_and_short_text(const config::RunConfig& config) {
  return {{{.dataset = dataset_of("long", {2000}, 3), .weight = 0.9},
           {.dataset = dataset_of("short", {13}, 4), .weight = 0.1}},
          {.seq_len = config.seq_len, .eos = 2, .seed = 7}};
}

// What a trainer has, and its KeptActivations.
struct Keeper {
  test::TemporaryDirectory dir;
  test::ExpandedModel model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config;
  data::TrainLoader loader;
  model::Decoder decoder = test::load_decoder(model.expanded);
  Trainable trainable;
  KeptActivations kept;

  Keeper(config::RunConfig c, data::TrainLoader text)
      : config(std::move(c)),
        loader(std::move(text)),
        trainable(decoder, trained_tensors(config, decoder, model.expansion, io::WeightFiles::open(model.expanded))),
        kept({.config = config,
              .loader = loader,
              .decoder = decoder,
              .trainable = trainable,
              .run_dir = dir.path(),
              .frozen_hash = "frozen",
              .total_sequences = *config.train.max_steps * config.train.batch_size * config.train.grad_accum,
              .total_steps = *config.train.max_steps,
              .has_eval_text = true}) {}
  explicit Keeper(const config::RunConfig& c) : Keeper(c, long_and_short_text(c)) {}

  bool uses_file_after(std::int64_t step) {
    kept.open(step);
    EXPECT_EQ(fs::exists(dir / "activations.cache"), kept.in_use());
    return kept.in_use();
  }
  // Whether what is computed with it is kept.
  bool keeps(const model::FrozenPrefix& prefix) {
    const std::int64_t before = kept.stats().bytes;
    prefix.hidden(test::random_batch({5}, seed_++).input_ids, decoder.num_layers(), {});
    return kept.stats().bytes > before;
  }

 private:
  std::uint64_t seed_ = 50;
};

TEST(KeptActivations, TakeTheTrainingTextWholeOrSayWhatItNeeds) {
  config::RunConfig config = uniform_config();
  config.train.max_steps = 30;
  for (const std::int64_t bytes : {kEpochBytes - 1, kEpochBytes}) {
    SCOPED_TRACE(bytes);
    config.train.activation_cache = (static_cast<double>(bytes) + 0.5) / 1e9;
    Keeper keeper(config, make_loader(config));
    const test::CapturedLog log;
    const bool fits = bytes == kEpochBytes;
    EXPECT_EQ(keeper.uses_file_after(0), fits);
    if (fits)
      EXPECT_THAT(log.text(), EndsWith("activations.cache, limit 13.1 kB\n"));
    else
      EXPECT_THAT(log.text(), AllOf(HasSubstr("activation cache: 13.1 kB is too small"),
                                    HasSubstr("needs 13.1 kB (train.activation_cache)")));
  }
}

TEST(KeptActivations, OfUpdatesAndEvaluationsNeedSeveralOfThem) {
  const auto text = [] { return data::TrainLoader({{.dataset = dataset_of("long", {2000}, 3)}}, {.seq_len = 8}); };
  config::RunConfig config = uniform_config();
  config.train.max_steps = 10;
  config.train.eval_steps = 3;  // after 3, 6 and 9
  Keeper evaluations(config, text());
  EXPECT_TRUE(evaluations.uses_file_after(0));
  EXPECT_TRUE(evaluations.uses_file_after(2));
  EXPECT_FALSE(evaluations.uses_file_after(3));
  config = small_config();
  config.train.max_steps = 20;  // updates before the steps 0, 5, 10 and 15
  Keeper updates(config, text());
  EXPECT_TRUE(updates.uses_file_after(0));
  EXPECT_FALSE(updates.uses_file_after(1));
}

TEST(KeptActivations, AreThoseThatAreComputedAgain) {
  config::RunConfig config = small_config();
  config.train.max_steps = 20;  // updates before the steps 0, 5, 10 and 15
  config.train.eval_steps = 6;  // after 6, 12 and 18
  Keeper keeper(config);
  ASSERT_TRUE(keeper.uses_file_after(0));
  EXPECT_TRUE(keeper.keeps(keeper.kept.for_update(10)));
  EXPECT_FALSE(keeper.keeps(keeper.kept.for_update(15))) << "the last update";
  EXPECT_TRUE(keeper.keeps(keeper.kept.for_evaluation(12)));
  EXPECT_FALSE(keeper.keeps(keeper.kept.for_evaluation(18))) << "the last evaluation";
  EXPECT_TRUE(keeper.keeps(keeper.kept.for_step({{.source = 1}, {.source = 1}})));
  EXPECT_FALSE(keeper.keeps(keeper.kept.for_step({{.source = 1}, {.source = 0}})))
      << "one of the sequences does not come again";
  EXPECT_FALSE(keeper.keeps(keeper.kept.for_reading()));
}

TEST(KeptActivations, AreReadByTheNextSessionAndRemovedWhenTheyAreDropped) {
  config::RunConfig config = uniform_config();
  config.train.eval_steps = 1;
  Keeper keeper(config);
  ASSERT_TRUE(keeper.uses_file_after(0));
  EXPECT_TRUE(keeper.keeps(keeper.kept.for_evaluation(1)));
  const std::int64_t bytes = keeper.kept.stats().bytes;
  ASSERT_TRUE(keeper.uses_file_after(1));
  EXPECT_EQ(keeper.kept.stats().bytes, bytes);
  keeper.kept.drop();
  EXPECT_FALSE(keeper.kept.in_use());
  EXPECT_FALSE(fs::exists(keeper.dir / "activations.cache"));
  EXPECT_EQ(keeper.kept.stats().bytes, 0);
  EXPECT_FALSE(keeper.keeps(keeper.kept.for_evaluation(1)));
}

TEST(KeptActivations, AreDoneWithoutWhereTheirFileCannotBeMade) {
  config::RunConfig config = uniform_config();
  config.train.eval_steps = 1;
  Keeper keeper(config);
  fs::create_directories(keeper.dir / "activations.cache" / "in_the_way");
  const test::CapturedLog log;
  keeper.kept.open(0);
  EXPECT_FALSE(keeper.kept.in_use());
  EXPECT_THAT(log.text(), HasSubstr("activations.cache"));
  EXPECT_THAT(log.text(), HasSubstr("training continues without the activation cache"));
}

TEST(Run, KeepsNoActivationsThatWouldNotComeAgainOrNotFit) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = uniform_config();
  config.train.max_steps = 30;
  // One source repeats, but never alone in a batch.
  TrainerInputs inputs = make_inputs(config, model.expanded, dir / "mixed");
  inputs.loader = long_and_short_text(config);
  const TrainSummary mixed = Trainer(std::move(inputs)).run(false);
  EXPECT_GT(mixed.activation_cache.positions_computed, 0) << "there is a cache";
  EXPECT_LT(mixed.activation_cache.bytes, 100) << "with nothing in it";
  config.train.activation_cache = 1e-6;
  const TrainSummary small = train(config, model.expanded, dir / "small");
  EXPECT_EQ(small.activation_cache.positions_computed, 0) << "later epochs do not fit, so there is none";
}

TEST(Run, KeepsNoActivationsWhereNothingFrozenIsBelow) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = uniform_config();
  config.train.max_steps = 30;  // several epochs
  const auto positions_computed = [&](Method method, std::int64_t num_layers) {
    config.method = method;
    config.top_k_layers.num_layers = num_layers;
    const fs::path out = dir / fmt::format("{}_{}", config::to_string(method), num_layers);
    return train(config, model.base, out).activation_cache.positions_computed;
  };
  EXPECT_GT(positions_computed(Method::kTopKLayers, 3), 0);
  EXPECT_EQ(positions_computed(Method::kTopKLayers, 4), 0) << "the lowest layer trains";
  EXPECT_EQ(positions_computed(Method::kFull, 4), 0) << "the embeddings train";
}

class TooFewFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test::has_sanitizers()) GTEST_SKIP() << "the sanitizers open files themselves";
  }
};

// A checkpoint needs three open files at a time. The third is the cache's, as a full disk's last bytes would be.
TEST_F(TooFewFiles, ForACheckpointAreMoreWithoutTheActivationCache) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = uniform_config();
  config.train.save_steps = 5;
  config.train.max_steps = 30;
  train(config, model.expanded, dir / "expected");
  Trainer trainer(make_inputs(config, model.expanded, dir / "run"));
  const test::CapturedLog log;
  TrainSummary summary;
  {
    const test::OpenFilesLeft left(3);
    summary = trainer.run(false);
  }
  const std::string text = log.text(), warning = "Retrying without the activation cache.";
  EXPECT_THAT(text, HasSubstr("checkpoint-5"));
  EXPECT_THAT(text, HasSubstr("Too many open files. Too many files are open (see ulimit -n). " + warning));
  EXPECT_EQ(text.find(warning), text.rfind(warning)) << "once";
  EXPECT_EQ(list_checkpoints(dir / "run").size(), 6U);
  EXPECT_EQ(summary.activation_cache.bytes, 0) << "there is none since the first checkpoint";
  for (const char* checkpoint : {"checkpoint-5", "checkpoint-30"})
    EXPECT_EQ(test::read_file(dir / "run" / checkpoint / "trainable.safetensors"),
              test::read_file(dir / "expected" / checkpoint / "trainable.safetensors"));
}

TEST_F(TooFewFiles, ForACheckpointAreAnErrorWhereThereIsNoActivationCache) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = uniform_config();
  config.train.activation_cache = 0;
  Trainer trainer(make_inputs(config, model.expanded, dir / "run"));
  const test::CapturedLog log;
  const std::string message = test::message_of<DataError>([&] {
    const test::OpenFilesLeft left(1);
    trainer.run(false);
  });
  EXPECT_THAT(message, HasSubstr("Too many open files"));
  EXPECT_THAT(log.text(), Not(HasSubstr("Retrying")));
}

}  // namespace
}  // namespace adept::train
