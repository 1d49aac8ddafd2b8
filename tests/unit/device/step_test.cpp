// A training step on a device: what makes the host wait for it, and masks of every query and key, on the paths that a
// GPU takes (tests/support/stand_in_device.h).
#include "adept/train/step.h"

#include <ATen/Context.h>
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adept/io/companion_files.h"
#include "adept/io/record.h"
#include "adept/train/methods.h"
#include "tests/support/stand_in_device.h"
#include "tests/support/tiny_models.h"
#include "tests/support/whole_rates.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr std::int64_t kTokens = 37;  // no other dimension has this size

/// Finds results of operations whose last two dimensions are the tokens of a sequence: masks and scores.
class DenseMasks {
 public:
  DenseMasks()
      : handle_(at::addGlobalCallback(
            at::RecordFunctionCallback(start, look).needsOutputs(true).scopes({at::RecordScope::FUNCTION}))) {
    names().clear();
  }
  ~DenseMasks() { at::removeCallback(handle_); }
  DenseMasks(const DenseMasks&) = delete;
  DenseMasks& operator=(const DenseMasks&) = delete;

  std::set<std::string> found() const {
    const std::lock_guard lock(mutex());
    return names();
  }

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static std::set<std::string>& names() {
    static std::set<std::string> names;
    return names;
  }
  static std::unique_ptr<at::ObserverContext> start(const at::RecordFunction&) { return nullptr; }
  static void look(const at::RecordFunction& function, at::ObserverContext*) {
    for (const c10::IValue& output : function.outputs()) {
      if (!output.isTensor() || !output.toTensor().defined() || output.toTensor().dim() < 2) continue;
      const at::Tensor& tensor = output.toTensor();
      if (tensor.size(-1) != kTokens || tensor.size(-2) == 0 || tensor.size(-2) % kTokens != 0) continue;
      const std::lock_guard lock(mutex());
      names().insert(function.name());
    }
  }

  at::CallbackHandle handle_;
};

enum class Text { kPlain, kDocuments, kPadded };

struct Case {
  std::string name;
  Method method = Method::kAdept;
  Text text = Text::kPlain;
  ActivationCheckpointing checkpointing = ActivationCheckpointing::kNone;
  bool uses_cache = false, trains_rows = false;
};

std::vector<Case> cases() {
  return {{.name = "adept"},
          {.name = "documents", .text = Text::kDocuments},
          {.name = "padded", .text = Text::kPadded},
          {.name = "cache", .text = Text::kDocuments, .uses_cache = true},
          {.name = "recomputation", .text = Text::kDocuments, .checkpointing = ActivationCheckpointing::kFull},
          {.name = "lora", .method = Method::kLora, .text = Text::kDocuments},
          {.name = "full", .method = Method::kFull, .text = Text::kDocuments},
          {.name = "rows", .text = Text::kDocuments, .trains_rows = true}};
}

config::RunConfig config_of(const Case& c) {
  config::RunConfig config = small_config();
  config.method = c.method;
  if (c.method != Method::kAdept) config.unit_lr.policy = "uniform";
  config.lora.rank = 2;
  config.lora.alpha = 6.0;
  config.lora.dropout = 0.1;
  config.train.train_new_embeddings = c.trains_rows;
  return config;
}

/// Four sequences of two micro-batches.
std::vector<data::Sequence> sequences_of(Text text, std::uint64_t seed) {
  std::vector<data::Sequence> sequences = test::random_sequences({kTokens, kTokens, kTokens, kTokens}, seed);
  if (text == Text::kPadded) sequences[1].tokens.resize(20);
  if (text == Text::kDocuments)
    for (std::size_t i = 0; i < sequences.size(); ++i) sequences[i].document_starts = {5, 19 + static_cast<int>(i), 36};
  return sequences;
}

/// The kinds of models, and one whose rotary tables depend on the length of each document.
std::vector<std::string> kinds() {
  std::vector<std::string> kinds = test::model_kinds();
  kinds.push_back("phi3_longrope");
  return kinds;
}

test::ExpandedModel write_model_of(const std::string& kind, const fs::path& dir) {
  if (kind != "phi3_longrope") return test::write_expanded_model(dir, kind, {1, 3});
  Json json = test::config_of_kind("phi3");
  json["partial_rotary_factor"] = 1;
  json["original_max_position_embeddings"] = 16;
  json["rope_scaling"] = {{"type", "longrope"}, {"short_factor", {1, 2}}, {"long_factor", {3, 9}}};
  test::ExpandedModel model = {.base = dir / "base", .expanded = dir / "expanded", .expansion = {}};
  test::write_model(model.base, json);
  model.expansion = method::expand_model(model.base, model.expanded, std::vector<int>{1, 3}, std::nullopt);
  return model;
}

/// A model that is ready for steps on a device.
class Training {
 public:
  Training(const std::string& kind, const Case& c, at::Device device, at::ScalarType dtype)
      : case_(c),
        config_(config_of(c)),
        model_(write_model_of(kind, dir_.path())),
        start_(config_.expands() ? model_.expanded : model_.base) {
    if (c.trains_rows)
      io::write_record(start_ / io::kAddedTokensRecord, {{"version", 1}, {"tokens", {{{"id", 7}, {"token", "t"}}}}});
    files_ = io::WeightFiles::open(start_);
    decoder_.emplace(model::load_decoder(start_, {.dtype = dtype, .device = device}));
    const auto expansion = config_.expands() ? std::optional(model_.expansion) : std::nullopt;
    trainable_.emplace(*decoder_, trained_tensors(config_, *decoder_, expansion, *files_));
    optimizer_.emplace(trainable_->parameters(), optim::AdamWOptions{});
    if (c.uses_cache)
      cache_.emplace(dir_.path() / "activations", 1 << 24,
                     model::ActivationSource{.fingerprint = "weights",
                                             .num_layers = trainable_->lowest_layer(),
                                             .hidden_size = decoder_->config().hidden_size,
                                             .dtype = dtype});
  }

  StepResult step(const StepDivision& division = {}, std::uint64_t data_seed = 1) {
    const std::vector<data::Sequence> sequences = sequences_of(case_.text, data_seed);
    const std::int64_t batch_size = cache_ ? 1 : 2;  // of a row alone nothing depends on its place in the batch
    const std::vector<model::Batch> batches = to_micro_batches(sequences, batch_size, decoder_->device());
    const model::FrozenPrefix prefix(*decoder_, cache_ ? &*cache_ : nullptr, /*keeps_new=*/true);
    std::map<std::string, double> rates;
    for (const optim::Parameter& p : trainable_->parameters()) rates[p.name] = 1e-3;
    return train_step(prefix, *trainable_, *optimizer_, batches, test::whole_rates(trainable_->parameters(), rates),
                      /*max_grad_norm=*/0.1, case_.checkpointing, division);
  }

  std::int64_t positions_read() const { return cache_->stats().positions_read; }

 private:
  Case case_;
  config::RunConfig config_;
  test::TemporaryDirectory dir_;
  test::ExpandedModel model_;
  fs::path start_;
  std::optional<io::WeightFiles> files_;
  std::optional<model::Decoder> decoder_;
  std::optional<Trainable> trainable_;
  std::optional<optim::AdamW> optimizer_;
  std::optional<model::ActivationCache> cache_;
};

class DeviceStep : public testing::TestWithParam<std::string> {};

TEST_P(DeviceStep, WaitsForTheDeviceOnceToReadItsResults) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      if (dtype == at::kFloat && c.name != "documents") continue;  // what differs is attention
      SCOPED_TRACE(at::toString(dtype));
      Training run(GetParam(), c, test::kStandIn, dtype);
      ASSERT_TRUE(run.step().finite) << "makes the rotary tables and fills the cache";
      test::reset_synchronizations();
      ASSERT_TRUE(run.step().finite);
      EXPECT_THAT(test::synchronizations(), ElementsAre(Pair("copy to the host", 1)));
      EXPECT_LE(test::calls_on_device("_fused_adamw_"), 2) << "of all parameters with one weight decay";
      if (c.uses_cache) {
        EXPECT_EQ(run.positions_read(), 4 * kTokens);
      }
    }
  }
}

TEST_P(DeviceStep, AppendsActivationsWithoutWaiting) {
  const Case c = {.name = "cache", .text = Text::kDocuments, .uses_cache = true};
  Training run(GetParam(), c, test::kStandIn, at::kBFloat16);
  ASSERT_TRUE(run.step().finite);
  ASSERT_EQ(run.positions_read(), 0);
  test::reset_synchronizations();
  ASSERT_TRUE(run.step({}, /*data_seed=*/2).finite);
  EXPECT_THAT(test::synchronizations(), ElementsAre(Pair("copy to the host", 1)));
  // Verified: what was appended is compared with what is computed.
  EXPECT_THAT(run.step({.is_verified = true}, /*data_seed=*/2).difference, IsEmpty());
  EXPECT_EQ(run.positions_read(), 4 * kTokens);
}

TEST_P(DeviceStep, ComputesWhatTheProcessorDoes) {
  for (const Case& c : cases()) {
    if (c.method == Method::kLora) continue;  // dropout draws in another order
    SCOPED_TRACE(c.name);
    Training on_device(GetParam(), c, test::kStandIn, at::kFloat), on_cpu(GetParam(), c, at::kCPU, at::kFloat);
    for (int i = 0; i < 2; ++i) {
      const StepResult found = on_device.step(), expected = on_cpu.step();
      EXPECT_NEAR(found.loss, expected.loss, 1e-4 * expected.loss);
      EXPECT_NEAR(found.grad_norm, expected.grad_norm, 1e-3 * expected.grad_norm);
      ASSERT_EQ(found.sequence_losses.size(), expected.sequence_losses.size());
      for (std::size_t s = 0; s < found.sequence_losses.size(); ++s)
        EXPECT_NEAR(found.sequence_losses[s], expected.sequence_losses[s], 1e-4 * expected.sequence_losses[s]);
    }
  }
}

TEST_P(DeviceStep, IsVerifiedWithDeterministicKernels) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    Training run(GetParam(), c, test::kStandIn, at::kBFloat16);
    for (int i = 0; i < 2; ++i)  // the second time from the cache
      EXPECT_THAT(run.step({.seed = 3, .is_verified = true}).difference, IsEmpty());
    EXPECT_FALSE(at::globalContext().deterministicAlgorithms()) << "for verified steps only";
  }
}

TEST_P(DeviceStep, HasNoMaskOfEveryQueryAndKey) {
  for (const at::Device device : {at::Device(at::kCPU), test::kStandIn}) {
    if (!device.is_cpu() && GetParam() == "gemma2") continue;  // in blocks that are longer than these sequences
    for (const Case& c : cases()) {
      SCOPED_TRACE(c.name);
      Training run(GetParam(), c, device, at::kBFloat16);
      const DenseMasks masks;
      ASSERT_TRUE(run.step().finite);
      EXPECT_THAT(masks.found(), IsEmpty());
    }
  }
}

TEST(DenseMasks, AreFoundInABlockThatIsLongerThanTheSequence) {
  Training run("mistral", {.name = "plain"}, test::kStandIn, at::kFloat);
  const DenseMasks masks;
  ASSERT_TRUE(run.step().finite);
  EXPECT_THAT(masks.found(), ::testing::Contains("aten::logical_and"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, DeviceStep, testing::ValuesIn(kinds()), [](const auto& kind) { return kind.param; });

}  // namespace
}  // namespace adept::train
