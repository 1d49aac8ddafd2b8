// Steps that are computed twice: equal bits are accepted, and a bit that changes is found.
#include "adept/train/verification.h"

#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "adept/core/host_name.h"
#include "adept/train/methods.h"
#include "tests/support/bit_flip.h"
#include "tests/support/reads.h"
#include "tests/support/whole_rates.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using test::Says;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr const char* kTrained = "model.layers.5.mlp.down_proj.weight";
constexpr const char* kOtherTrained = "model.layers.2.self_attn.q_proj.weight";
constexpr const char* kFrozen = "model.layers.1.mlp.up_proj.weight";  // below the lowest copy

// A model with trained copies 2 and 5, whose frozen tensors are not mapped.
struct VerifiedModel {
  test::TemporaryDirectory dir;
  test::ExpandedModel files = test::write_expanded_model(dir.path(), "llama", {1, 3});
  model::Decoder decoder = test::load_decoder(files.expanded);
  Trainable trainable{decoder, expanded_tensors(decoder, files.expansion, io::WeightFiles::open(files.expanded))};
  std::vector<model::Batch> batches = {test::random_batch({8, 5}, 1), test::random_batch({7}, 2)};

  VerifiedModel() {
    for (const auto& p : model::named_parameters(decoder.config(), decoder.weights()))
      if (!p.tensor->requires_grad()) *p.tensor = p.tensor->clone();
  }
  at::Tensor& tensor(const std::string& name) { return test::tensor_of(decoder, name); }
  StepResult compute(const model::FrozenPrefix& model) {
    return compute_gradients(model, trainable, batches, ActivationCheckpointing::kNone, {.is_verified = true});
  }
  StepResult compute() { return compute(decoder); }
  /// Calls `work` in a backward pass, when the gradient of a trained tensor is known for the `count`-th time.
  void at_gradient(const std::string& name, int count, const std::function<void()>& work) {
    tensor(name).register_hook([count, work, calls = std::make_shared<int>(0)](const at::Tensor&) {
      if (++*calls == count) work();
    });
  }
};

TEST(Verification, AcceptsEveryMethodAndChangesNoBit) {
  struct Setting {
    Method method;
    config::DTypeChoice dtype = config::DTypeChoice::kFp32;
    ActivationCheckpointing checkpointing = ActivationCheckpointing::kNone;
  };
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  int number = 0;
  for (const auto& [method, dtype, checkpointing] :
       {Setting{Method::kAdept}, Setting{Method::kFull, config::DTypeChoice::kBf16},
        Setting{Method::kLora, config::DTypeChoice::kFp32, ActivationCheckpointing::kFull},
        Setting{Method::kLora, config::DTypeChoice::kBf16},
        Setting{Method::kAdept, config::DTypeChoice::kBf16, ActivationCheckpointing::kSelective}}) {
    SCOPED_TRACE(++number);
    config::RunConfig config = small_config();
    config.method = method;
    config.compute.dtype = dtype;
    config.train.activation_checkpointing = checkpointing;
    config.lora.alpha = 16;
    config.lora.dropout = 0.3;
    if (method != Method::kAdept) config.unit_lr.policy = "uniform";
    config.train.max_steps = 15;  // several epochs: activations come from the cache
    config.train.save_steps = 0;
    const fs::path plain = dir / fmt::format("{}-plain", number), verified = dir / fmt::format("{}-verified", number);
    train(config, model.expanded, plain);
    config.train.verify_every = 2;
    const TrainSummary summary = train(config, model.expanded, verified);
    if (method == Method::kAdept) {
      EXPECT_GT(summary.activation_cache.positions_read, 0);
    }
    expect_same_tensors(verified, plain, "checkpoint-15");
  }
}

TEST(Verification, CountsTheTokensOfAVerifiedStepOnce) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 3;
  const TrainSummary plain = train(config, model.expanded, dir / "plain");
  config.train.verify_every = 1;
  const TrainSummary verified = train(config, model.expanded, dir / "verified");
  EXPECT_EQ(verified.total_tokens, plain.total_tokens);
  EXPECT_EQ(verified.activation_cache.positions_read, plain.activation_cache.positions_read);
}

TEST(Verification, NamesTheGradientOfWhichOneElementChanges) {
  VerifiedModel m;
  int calls = 0;
  m.tensor(kTrained).register_hook([&](const at::Tensor& gradient) {
    at::Tensor changed = gradient.clone();
    if (++calls == 3) test::flip_bit(changed, 5, 3);  // the first micro-batch of the second computation
    return changed;
  });
  const std::string difference = m.compute().difference;
  EXPECT_THAT(difference, Says(fmt::format("rank 0 ({}) in micro-batch 1 of 2, the gradient of {}: 1 of 1 blocks",
                                           host_name(), kTrained)));
  EXPECT_THAT(difference, AllOf(Not(HasSubstr("its part of the loss")), Not(HasSubstr("gradients differ"))));
  EXPECT_EQ(calls, 4);
}

TEST(Verification, FindsABitOfAFrozenWeightThatChangesBetweenTheComputations) {
  VerifiedModel m;
  EXPECT_THAT(m.compute().difference, IsEmpty());
  m.at_gradient(kOtherTrained, 2, [&] { test::flip_bit(m.tensor(kFrozen), 7, 25); });
  EXPECT_THAT(
      m.compute().difference,
      Says("in micro-batch 1 of 2, its part of the loss is ..., before ...; the gradient of model.layers...; ... of 18 "
           "gradients differ"));
}

TEST(Verification, ComparesCachedActivationsWithComputedOnes) {
  VerifiedModel m;
  model::ActivationCache cache(m.dir / "cache", 1 << 20,
                               {.fingerprint = "x", .num_layers = 2, .hidden_size = m.decoder.config().hidden_size});
  const model::FrozenPrefix cached(m.decoder, &cache, /*keeps_new=*/true);
  test::flip_bit(m.tensor(kFrozen), 7, 25);
  for (const model::Batch& batch : m.batches) cached.hidden(batch.input_ids, 2, batch.context());
  test::flip_bit(m.tensor(kFrozen), 7, 25);  // right again, but what was computed meanwhile stays
  EXPECT_THAT(m.compute(cached).difference, Says("in micro-batch 1 of 2, its part of the loss is"));
  EXPECT_GT(cache.stats().positions_read, 0);
}

TEST(Verification, LeavesWeightsAndMomentsOfAStepThatDiffers) {
  VerifiedModel m;
  m.at_gradient(kOtherTrained, 2, [&] { test::flip_bit(m.tensor(kFrozen), 7, 25); });
  optim::AdamW optimizer(m.trainable.parameters(), {});
  std::map<std::string, double> rates;
  for (const optim::Parameter& p : m.trainable.parameters()) rates[p.name] = 1e-2;
  const auto before = test::parameters_of(m.decoder);
  const StepResult result =
      train_step(m.decoder, m.trainable, optimizer, m.batches, test::whole_rates(m.trainable.parameters(), rates), 1.0,
                 ActivationCheckpointing::kNone, {.is_verified = true});
  EXPECT_FALSE(result.difference.empty());
  EXPECT_EQ(optimizer.num_updates(), 0);
  for (const auto& [name, value] : test::parameters_of(m.decoder))
    EXPECT_EQ(test::same_bits(value, before.at(name)), name != kFrozen) << name;
}

TEST(Verification, EndsTheTrainingWhichContinuesFromTheLastVerifiedCheckpoint) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.unit_lr.policy = "uniform";
  config.train.verify_every = 3;
  config.train.save_total_limit = 2;
  {
    Trainer trainer(make_inputs(config, model.expanded, dir / "run"));
    int calls = 0;
    test::tensor_of(trainer.decoder(), kOtherTrained).register_hook([&](const at::Tensor&) {
      // 5 steps of 2 micro-batches, of which one is verified, and the first computation of step 6.
      if (++calls == 14) test::flip_bit(test::tensor_of(trainer.decoder(), kTrained), 7, 25);
    });
    EXPECT_THAT(test::message_of<CorruptionError>([&] { trainer.run(false); }),
                Says("step 6 gave other bits ...train.verify_every...: rank 0 (...) in micro-batch 1 of 2, its part of "
                     "the loss is "
                     "...; the gradient of model.layers...memory or the processor...The last state before is "
                     "...checkpoint-3: repeat the command"));
  }
  EXPECT_EQ(list_checkpoints(dir / "run").front().filename(), "checkpoint-3");
  EXPECT_TRUE(fs::exists(dir / "run" / "unverified-checkpoint-5"));
  train(config, model.expanded, dir / "run", /*resume=*/true);
  config.train.verify_every = 0;
  train(config, model.expanded, dir / "other");
  expect_same_tensors(dir / "run", dir / "other", "checkpoint-12");
}

TEST(Verification, TrustsOnlyCheckpointsBeforeAStepThatWasVerified) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.unit_lr.policy = "uniform";
  config.train.max_steps = 4;
  train(config, model.expanded, dir / "run");  // no step is verified
  config.train.max_steps = 12;
  config.train.verify_every = 3;
  Trainer trainer(make_inputs(config, model.expanded, dir / "run"));
  int calls = 0;
  test::tensor_of(trainer.decoder(), kOtherTrained).register_hook([&](const at::Tensor&) {
    // A step of 2 micro-batches, and the first computation of step 6.
    if (++calls == 4) test::flip_bit(test::tensor_of(trainer.decoder(), kTrained), 7, 25);
  });
  EXPECT_THAT(test::message_of<CorruptionError>([&] { trainer.run(true); }),
              Says("step 6 gave other bits ...The last state before is the model that training started from"));
  EXPECT_TRUE(list_checkpoints(dir / "run").empty());
  EXPECT_TRUE(fs::exists(dir / "run" / "unverified-checkpoint-3"));
}

TEST(FrozenBits, SeeABitOfEveryFrozenTensorAndOfNoTrainedOne) {
  VerifiedModel m;
  for (const auto& p : model::named_parameters(m.decoder.config(), m.decoder.weights())) {
    SCOPED_TRACE(p.name);
    FrozenBits bits(m.decoder, m.trainable, 4);
    bits.verify(6, m.dir.path());
    test::flip_bit(*p.tensor, p.tensor->numel() - 1, 0);
    if (p.tensor->requires_grad()) {
      bits.verify(8, m.dir.path());
      continue;
    }
    EXPECT_THAT(
        test::message_of<CorruptionError>([&] { bits.verify(8, m.dir.path()); }),
        Says("frozen weights changed in memory on ... between steps 6 and 8...: " + p.name + ": 1 of ... blocks"));
  }
}

TEST(FrozenBits, AreComparedAtEverySave) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.unit_lr.policy = "uniform";
  config.compute.dtype = config::DTypeChoice::kBf16;  // other than that of the files, which are then not mapped
  config.train.save_steps = 2;
  Trainer trainer(make_inputs(config, model.expanded, dir / "run"));
  int calls = 0;
  test::tensor_of(trainer.decoder(), kOtherTrained).register_hook([&](const at::Tensor&) {
    // The first micro-batch of step 5.
    if (++calls == 9) test::flip_bit(test::tensor_of(trainer.decoder(), kFrozen), 7, 0);
  });
  EXPECT_THAT(test::message_of<CorruptionError>([&] { trainer.run(false); }),
              Says("frozen weights changed in memory on ... between steps 4 and 6: " + std::string(kFrozen) +
                   ": 1 of 1 blocks of 16 KiB differ...checkpoint-4: repeat the command"));
  EXPECT_EQ(list_checkpoints(dir / "run").front().filename(), "checkpoint-4");
}

}  // namespace
}  // namespace adept::train
