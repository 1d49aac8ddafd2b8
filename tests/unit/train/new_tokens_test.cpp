// Training the rows of new tokens (train.train_new_embeddings): their gradients, what stays, and what may be reused.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "adept/core/error.h"
#include "adept/io/companion_files.h"
#include "adept/io/record.h"
#include "adept/io/safetensors.h"
#include "adept/model/cost.h"
#include "adept/model/torch_tensors.h"
#include "adept/train/memory.h"
#include "adept/train/methods.h"
#include "adept/train/step.h"
#include "tests/support/reads.h"
#include "tests/support/tolerance.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train::new_tokens {
namespace {

using test::Says;

constexpr double kGradientTolerance = 1e-5;
const std::vector<Method> kMethods = {Method::kAdept, Method::kLlamaPro, Method::kLora, Method::kTopKLayers};
const std::vector<std::int64_t> kIds = {7, 40, 41, 52};
const std::string kEmbeddingRows = "model.embed_tokens.weight/new_tokens", kHeadRows = "lm_head.weight/new_tokens";

config::RunConfig config_with_new_tokens(Method method) {
  config::RunConfig config = small_config();
  config.method = method;
  if (method != Method::kAdept) config.unit_lr.policy = "uniform";
  config.lora.rank = 2;
  config.lora.alpha = 6.0;
  config.top_k_layers.num_layers = 2;
  config.train.train_new_embeddings = true;
  return config;
}

void write_new_tokens(const fs::path& model_dir, const std::vector<std::int64_t>& ids = kIds) {
  Json tokens = Json::array();
  for (const std::int64_t id : ids) tokens.push_back({{"id", id}, {"token", fmt::format("t{}", id)}});
  io::write_record(model_dir / io::kAddedTokensRecord, {{"version", 1}, {"tokens", tokens}});
}

test::ExpandedModel write_models(const fs::path& dir, const std::string& kind, DType dtype = DType::kF32) {
  test::ExpandedModel model = test::write_expanded_model(dir, kind, {1, 3}, dtype);
  for (const fs::path& folder : {model.base, model.expanded}) write_new_tokens(folder);
  return model;
}

const fs::path& folder_of(const config::RunConfig& config, const test::ExpandedModel& model) {
  return config.expands() ? model.expanded : model.base;
}

// A model that is ready for a step.
struct Ready {
  config::RunConfig config;
  io::WeightFiles files;
  model::Decoder decoder;
  std::optional<method::Expansion> expansion;
  Trainable trainable;

  Ready(const config::RunConfig& c, const test::ExpandedModel& model, at::ScalarType dtype = at::kFloat)
      : config(c),
        files(io::WeightFiles::open(folder_of(c, model))),
        decoder(test::load_decoder(folder_of(c, model), dtype)),
        expansion(c.expands() ? std::optional(model.expansion) : std::nullopt),
        trainable(decoder, trained_tensors(c, decoder, expansion, files)) {}

  std::map<std::string, at::Tensor> gradients(const std::vector<model::Batch>& batches, StepResult* result = nullptr) {
    const StepResult found = compute_gradients(decoder, trainable, batches);
    if (result != nullptr) *result = found;
    std::map<std::string, at::Tensor> gradients;
    for (std::size_t i = 0; i < trainable.parameters().size(); ++i)
      gradients[trainable.parameters()[i].name] = trainable.gradients()[i];
    return gradients;
  }
};

bool has_new_token(const eval::EvalSet& set) {
  for (const data::Sequence& sequence : set.sequences.to_vector())
    for (const std::int32_t token : sequence.tokens)
      if (std::ranges::find(kIds, token) != kIds.end()) return true;
  return false;
}

std::vector<model::Batch> some_batches() { return {test::random_batch({17, 11}, 3), test::random_batch({9}, 4)}; }

TEST(NewTokens, HaveTheGradientsOfTheirRowsOfTheWholeEmbedding) {
  const at::Tensor ids = at::tensor(kIds, at::kLong);
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const test::TemporaryDirectory dir;
    const test::ExpandedModel model = write_models(dir.path(), kind);
    config::RunConfig full = config_with_new_tokens(Method::kFull);
    const auto expected = Ready(full, model).gradients(some_batches());
    StepResult step;
    Ready ready(config_with_new_tokens(Method::kTopKLayers), model);
    const auto found = ready.gradients(some_batches(), &step);
    const bool tied = ready.decoder.config().tie_word_embeddings;
    EXPECT_EQ(found.contains(kHeadRows), !tied);
    std::int64_t bytes = 0;
    for (const auto& [name, gradient] : found) {
      bytes += static_cast<std::int64_t>(gradient.nbytes());
      const bool is_rows = name.ends_with(kNewTokenRows);
      const std::string whole = name.substr(0, name.size() - (is_rows ? kNewTokenRows.size() : 0));
      const at::Tensor of_rows = is_rows ? expected.at(whole).index_select(0, ids) : expected.at(whole);
      EXPECT_GT(of_rows.abs().max().item<double>(), 0);
      EXPECT_TRUE(test::is_close(gradient, of_rows, kGradientTolerance)) << name;
    }
    EXPECT_EQ(step.gradient_bytes, bytes) << "there is none of the vocabulary";
    EXPECT_EQ(found.at(kEmbeddingRows).size(0), std::ssize(kIds));
  }
}

TEST(NewTokens, ResumeBitForBitWithEveryMethod) {
  for (const Method method : kMethods) {
    for (const auto dtype : {config::DTypeChoice::kFp32, config::DTypeChoice::kBf16}) {
      SCOPED_TRACE(config::to_string(method));
      const test::TemporaryDirectory dir;
      const auto model = write_models(dir.path(), "llama_biased_tied");
      config::RunConfig config = config_with_new_tokens(method);
      config.compute.dtype = dtype;
      config.train.max_steps = 6;
      config.lora.dropout = 0.3;
      train(config, folder_of(config, model), dir / "whole");
      copy_killed_after(dir / "whole", dir / "resumed", 3);
      train(config, folder_of(config, model), dir / "resumed", /*resume=*/true);
      expect_same_tensors(dir / "resumed", dir / "whole", "checkpoint-6");
    }
  }
}

TEST(NewTokens, AreAllThatChangesInTheExportedTables) {
  for (const std::string kind : {"llama", "llama_biased_tied", "gemma2"}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const Method method : kMethods) {
        SCOPED_TRACE(fmt::format("{} {}", kind, config::to_string(method)));
        const test::TemporaryDirectory dir;
        const auto model = write_models(dir.path(), kind, dtype);
        config::RunConfig config = config_with_new_tokens(method);
        config.train.max_steps = 3;
        Trainer trainer(make_inputs(config, folder_of(config, model), dir / "run"));
        trainer.run(/*resume=*/false);
        trainer.export_model(dir / "out");
        const auto before = io::WeightFiles::open(folder_of(config, model)), after = io::WeightFiles::open(dir / "out");
        for (const std::string name : {"model.embed_tokens.weight", "lm_head.weight"}) {
          if (before.find(name) == nullptr) continue;
          const at::Tensor old = model::as_tensor(before.at(name), nullptr),
                           now = model::as_tensor(after.at(name), nullptr);
          ASSERT_EQ(now.scalar_type(), old.scalar_type());
          for (std::int64_t row = 0; row < old.size(0); ++row)
            EXPECT_EQ(test::same_bits(now[row], old[row]), std::ranges::find(kIds, row) == kIds.end()) << name << row;
        }
        EXPECT_EQ(test::read_file(dir / "out" / io::kAddedTokensRecord),
                  test::read_file(model.base / io::kAddedTokensRecord));
        if (dtype != DType::kF32) continue;
        const at::NoGradGuard no_grad;
        const model::Decoder exported = test::load_decoder(dir / "out");
        const nn::TokenIds ids = some_batches().front().input_ids;
        EXPECT_TRUE(test::is_close(exported.logits(exported.forward(ids, {})),
                                   trainer.decoder().logits(trainer.decoder().forward(ids, {})),
                                   test::tolerance(at::kFloat).values));
      }
    }
  }
}

TEST(NewTokens, TrainTheSameWithAndWithoutTheActivationCache) {
  for (const Method method : {Method::kAdept, Method::kTopKLayers}) {
    SCOPED_TRACE(config::to_string(method));
    const test::TemporaryDirectory dir;
    const auto model = write_models(dir.path(), "llama");
    config::RunConfig config = config_with_new_tokens(method);
    config.train.max_steps = 16;
    config.train.batch_size = 1;
    config.train.eval_steps = 4;
    std::map<double, TrainSummary> summaries;
    for (const double size : {0.0, 4.0}) {
      config.train.activation_cache = size;
      TrainerInputs inputs = make_inputs(config, folder_of(config, model), dir / fmt::format("run{}", size));
      inputs.eval.push_back(held_out());
      EXPECT_TRUE(has_new_token(inputs.eval.front())) << "which the cache must not have";
      summaries[size] = Trainer(std::move(inputs)).run(/*resume=*/false);
    }
    expect_same_tensors(dir / "run4", dir / "run0", "checkpoint-16");
    EXPECT_GT(summaries[4].activation_cache.positions_read, 0) << "sequences without a new token use the cache";
    const auto before = lines_of(dir / "run0" / "trainer_log.jsonl"),
               after = lines_of(dir / "run4" / "trainer_log.jsonl");
    ASSERT_EQ(before.size(), after.size());
    for (std::size_t i = 0; i < before.size(); ++i)
      for (const char* key : {"loss", "grad_norm", "eval_loss"})
        EXPECT_EQ(before[i].value(key, Json()), after[i].value(key, Json()));
  }
}

TEST(NewTokens, AreUnitsOfTheirOwnWithoutAnImportance) {
  const test::TemporaryDirectory dir;
  const auto model = write_models(dir.path(), "llama");
  config::RunConfig config = config_with_new_tokens(Method::kAdept);
  config.train.max_steps = 2;
  config.unit_lr.factors = {{.units = "lm_head.weight/*", .factor = 0}};
  Trainer trainer(make_inputs(config, model.expanded, dir / "run"));
  trainer.run(/*resume=*/false);
  const Json line = lines_of(dir / "run" / "parameter_importance.jsonl").front();
  EXPECT_EQ(line["lr_weight"][kEmbeddingRows], 1);
  EXPECT_EQ(line["lr_weight"][kHeadRows], 0);
  EXPECT_FALSE(line["importance"].contains(kEmbeddingRows));
  const auto saved = io::SafetensorsFile::open(dir / "run" / "checkpoint-2" / "trainable.safetensors");
  const auto files = io::WeightFiles::open(model.expanded);
  const at::Tensor ids = at::tensor(kIds, at::kLong);
  for (const auto& [rows, table] :
       {std::pair{kEmbeddingRows, "model.embed_tokens.weight"}, {kHeadRows, "lm_head.weight"}})
    EXPECT_EQ(test::same_bits(model::as_tensor(*saved->find(rows), nullptr),
                              model::as_tensor(files.at(table), nullptr).index_select(0, ids)),
              rows == kHeadRows);
}

TEST(NewTokens, CostTheWayToTheEmbeddingOnlyWhereTheyAre) {
  const test::TemporaryDirectory dir;
  const auto model = write_models(dir.path(), "llama");
  config::RunConfig config = config_with_new_tokens(Method::kLlamaPro);
  const Ready with(config, model);
  config.train.train_new_embeddings = false;
  const Ready without(config, model);
  const auto cost = [](const Ready& ready, bool trains_a_token) {
    return model::step_cost(ready.decoder.weights(), ready.trainable.lowest_layer(), 16, trains_a_token);
  };
  const double of_rows =
      2.0 * static_cast<double>(kIds.size()) * static_cast<double>(with.decoder.config().hidden_size);
  EXPECT_DOUBLE_EQ(cost(with, false).prefix_flops, cost(without, false).prefix_flops);
  EXPECT_DOUBLE_EQ(cost(with, false).flops, cost(without, false).flops + of_rows);
  EXPECT_GT(cost(with, true).prefix_flops, 1.9 * cost(with, false).prefix_flops);
  const optim::AdamW with_optimizer(with.trainable.parameters(), {}),
      without_optimizer(without.trainable.parameters(), {});
  const MemoryUse a = resident_memory(with.decoder, with.trainable, with_optimizer),
                  b = resident_memory(without.decoder, without.trainable, without_optimizer);
  const auto bytes = static_cast<std::int64_t>(2 * of_rows / 2 * sizeof(float));  // of the embedding and the head
  EXPECT_EQ(a.masters - b.masters, bytes);
  EXPECT_EQ(a.moments - b.moments, 2 * bytes);
  EXPECT_EQ(a.weights, b.weights);
}

TEST(NewTokens, DecideWhichTensorsAreFrozen) {
  const test::TemporaryDirectory dir;
  const auto model = write_models(dir.path(), "llama");
  const config::RunConfig config = config_with_new_tokens(Method::kLlamaPro);
  const auto hash = [&] {
    const Ready ready(config, model);
    return frozen_hash("weights", ready.decoder, ready.trainable);
  };
  const std::string before = hash();
  EXPECT_EQ(before, hash());
  write_new_tokens(model.expanded, {7, 40, 41, 51});
  EXPECT_NE(before, hash());
}

TEST(NewTokens, MustBeThereToTrain) {
  const test::TemporaryDirectory dir;
  test::write_model(dir / "base", test::config_of_kind("llama"));
  const model::ModelConfig model = model::parse_model_config(test::config_of_kind("llama"), "config.json");
  for (const Method method : kMethods)
    EXPECT_THAT(
        test::message_of<ConfigError>([&] { check_method(config_with_new_tokens(method), model, dir / "base"); }),
        Says("train.train_new_embeddings: found true, but ...base has no new tokens...adept expand-vocab"));
  EXPECT_NO_THROW(check_method(config_with_new_tokens(Method::kFull), model, dir / "base")) << "which trains all rows";
}

}  // namespace
}  // namespace adept::train::new_tokens
