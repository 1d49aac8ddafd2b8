// Documents that share a row and do not see each other: each has the loss and the gradients of that document alone.
#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "adept/model/frozen_prefix.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/kernels.h"
#include "adept/train/methods.h"
#include "adept/train/step.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"
#include "tests/support/whole_rates.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

constexpr double kTolerance = 1e-5;  // in fp32, of the largest value of a tensor

// Of two rows, of which the second is padded. A document of one token predicts nothing.
const std::vector<std::vector<std::int64_t>> kDocuments = {{5, 9, 1, 6, 14, 3}, {12, 4, 7}};

data::Sequence packed_sequence(const std::vector<std::int64_t>& lengths, std::uint64_t seed) {
  data::Sequence sequence;
  for (const data::Sequence& document : test::random_sequences(lengths, seed)) {
    if (!sequence.tokens.empty()) sequence.document_starts.push_back(static_cast<std::int32_t>(sequence.tokens.size()));
    sequence.tokens.insert(sequence.tokens.end(), document.tokens.begin(), document.tokens.end());
  }
  return sequence;
}

model::Batch packed_batch(std::uint64_t seed = 1) {
  std::vector<data::Sequence> rows;
  for (std::size_t row = 0; row < kDocuments.size(); ++row)
    rows.push_back(packed_sequence(kDocuments[row], seed + row));
  return model::to_batch(data::make_batch(rows), at::kCPU);
}

struct Document {
  std::int64_t row = 0, begin = 0, length = 0;  // in the packed batch
  model::Batch alone;
};

std::vector<Document> documents_of(std::uint64_t seed = 1) {
  std::vector<Document> documents;
  for (std::size_t row = 0; row < kDocuments.size(); ++row) {
    std::int64_t begin = 0;
    for (const data::Sequence& sequence : test::random_sequences(kDocuments[row], seed + row)) {
      const auto length = std::ssize(sequence.tokens);
      documents.push_back({.row = static_cast<std::int64_t>(row),
                           .begin = begin,
                           .length = length,
                           .alone = model::to_batch(data::make_batch({&sequence, 1}), at::kCPU)});
      begin += length;
    }
  }
  return documents;
}

class KernelsOf {
 public:
  explicit KernelsOf(nn::Kernels kernels) : before_(nn::active_kernels()) { nn::set_kernels(kernels); }
  ~KernelsOf() { nn::set_kernels(before_); }
  KernelsOf(const KernelsOf&) = delete;
  KernelsOf& operator=(const KernelsOf&) = delete;

 private:
  nn::Kernels before_;
};

using Gradients = std::map<std::string, at::Tensor>;

// Of the sum of the losses, of every parameter.
Gradients gradients_of(model::Decoder& decoder, const nn::TokenIds& ids, const model::Context& context,
                       const nn::Targets& targets) {
  Gradients gradients;
  auto parameters = model::named_parameters(decoder.config(), decoder.weights());
  for (const auto& p : parameters) p.tensor->mutable_grad().reset();
  decoder.loss_sum(decoder.forward(ids, context), targets).backward();
  for (const auto& p : parameters) gradients[p.name] = p.tensor->grad().clone();
  return gradients;
}

void expect_close(const Gradients& found, const Gradients& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, gradient] : expected)
    EXPECT_TRUE(test::is_close(found.at(name), gradient, kTolerance)) << name;
}

// Within kTolerance of the largest value, beside what rounding alone does to `expected`: `exact` is the same in fp64.
// It counts twice, as `found` is rounded too. (Gradients of q_proj and k_proj are differences of nearly equal sums, so
// that rounding is large beside them.)
void expect_close(const Gradients& found, const Gradients& expected, const Gradients& exact) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, gradient] : expected) {
    const double rounding = (gradient.to(at::kDouble) - exact.at(name)).abs().max().item<double>();
    const double limit = kTolerance * gradient.abs().max().item<double>() + 2 * rounding;
    const double error = (found.at(name) - gradient).abs().max().item<double>();
    EXPECT_FALSE(!(error <= limit)) << name << ": " << error << ", at most " << limit << "; rounding " << rounding;
  }
}

// `exact` is the decoder in fp64.
void check_documents(model::Decoder& decoder, model::Decoder& exact) {
  for (model::Decoder* d : {&decoder, &exact})
    for (const auto& p : model::named_parameters(d->config(), d->weights())) p.tensor->requires_grad_();
  const model::Batch batch = packed_batch();
  const at::Tensor losses = decoder.token_losses(decoder.forward(batch.input_ids, batch.context()), batch.targets);
  std::int64_t num_targets = 0;
  for (const Document& d : documents_of()) {
    const at::Tensor alone =
        decoder.token_losses(decoder.forward(d.alone.input_ids, {}), d.alone.targets);  // (1, length)
    EXPECT_TRUE(test::is_close(losses.narrow(0, d.row, 1).narrow(1, d.begin, d.length), alone, kTolerance));
    num_targets += d.alone.num_targets;
    if (d.alone.num_targets == 0) continue;
    at::Tensor targets = at::full_like(batch.targets.values, nn::kIgnoreIndex);
    const auto own = [&](const at::Tensor& t) { return t.narrow(0, d.row, 1).narrow(1, d.begin, d.length); };
    own(targets).copy_(own(batch.targets.values));
    expect_close(gradients_of(decoder, batch.input_ids, batch.context(), targets),
                 gradients_of(decoder, d.alone.input_ids, {}, d.alone.targets),
                 gradients_of(exact, d.alone.input_ids, {}, d.alone.targets));
  }
  EXPECT_EQ(batch.num_targets, num_targets);
}

TEST(DocumentMask, GivesEachDocumentItsOwnLossesAndGradientsOfEveryParameter) {
  for (const std::string& kind : test::model_kinds())
    for (const nn::Kernels kernels : {nn::Kernels::kFused, nn::Kernels::kReference}) {
      SCOPED_TRACE(kind);
      const KernelsOf scope(kernels);
      model::Decoder decoder = test::decoder_of_kind(kind), exact = test::decoder_of_kind(kind, at::kDouble);
      check_documents(decoder, exact);
    }
}

// kTolerance leaves room for the tables of cos and sin, which are fp32: a document in a row has other positions than
// alone.
TEST(DocumentMask, GivesEachDocumentItsOwnLossesAndGradientsInFp64) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    model::Decoder decoder = test::decoder_of_kind(kind, at::kDouble);
    check_documents(decoder, decoder);
  }
}

TEST(DocumentMask, ChangesNothingWhereRowsAreSingleDocuments) {
  const model::Decoder decoder = test::decoder_of_kind("qwen3");
  model::Batch batch = test::random_batch({19, 19});
  const at::Tensor expected = decoder.forward(batch.input_ids, batch.context());
  batch.document_starts = at::zeros({2, 19}, at::kInt);
  EXPECT_TRUE(decoder.forward(batch.input_ids, batch.context()).equal(expected));
}

// An expanded model with copies that are no longer the identity, and what trains of it.
struct Training {
  test::TemporaryDirectory dir;
  test::ExpandedModel model;
  model::Decoder decoder;
  Trainable trainable;

  explicit Training(const std::string& kind)
      : model(test::write_expanded_model(dir.path(), kind, {1, 3})),
        decoder(test::load_decoder(model.expanded)),
        trainable(decoder, expanded_tensors(decoder, model.expansion, io::WeightFiles::open(model.expanded))) {
    optim::AdamW optimizer(trainable.parameters(), {});
    std::map<std::string, double> rates;
    for (const optim::Parameter& p : trainable.parameters()) rates[p.name] = 1e-2;
    for (std::uint64_t i = 0; i < 3; ++i) {
      const model::Batch batch = packed_batch(100 + 10 * i);
      train_step(decoder, trainable, optimizer, {&batch, 1}, test::whole_rates(trainable.parameters(), rates), 1.0);
    }
  }

  std::unique_ptr<model::ActivationCache> make_cache() const {
    return std::make_unique<model::ActivationCache>(
        dir.path() / "cache", 1 << 24,
        model::ActivationSource{
            .fingerprint = "", .num_layers = trainable.lowest_layer(), .hidden_size = decoder.config().hidden_size});
  }

  Gradients gradients(const model::FrozenPrefix& prefix, std::span<const model::Batch> batches,
                      ActivationCheckpointing checkpointing, double& loss) {
    loss = compute_gradients(prefix, trainable, batches, checkpointing).loss;
    Gradients gradients;
    for (std::size_t i = 0; i < trainable.parameters().size(); ++i)
      gradients[trainable.parameters()[i].name] = trainable.gradients()[i].clone();
    return gradients;
  }
};

TEST(DocumentMask, GivesTheStepOfTheDocumentsAloneWithAndWithoutCacheAndRecomputation) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    Training t(kind);
    std::vector<model::Batch> alone;
    for (const Document& document : documents_of()) alone.push_back(document.alone);
    double expected_loss = 0, loss = 0;
    const Gradients expected = t.gradients(t.decoder, alone, ActivationCheckpointing::kNone, expected_loss);
    const std::vector<model::Batch> batches = {packed_batch()};
    const Gradients plain = t.gradients(t.decoder, batches, ActivationCheckpointing::kNone, loss);
    EXPECT_NEAR(loss, expected_loss, kTolerance * expected_loss);
    expect_close(plain, expected);

    const double plain_loss = loss;
    const auto cache = t.make_cache();
    const model::FrozenPrefix cached(t.decoder, cache.get(), /*keeps_new=*/true);
    model::Batch unmarked = batches.front();
    unmarked.document_starts.reset();
    t.gradients(cached, {&unmarked, 1}, ActivationCheckpointing::kNone, loss);  // the same tokens, which see all
    EXPECT_NE(loss, plain_loss);
    for (const model::FrozenPrefix& prefix : {model::FrozenPrefix(t.decoder), cached, cached})
      for (const auto checkpointing :
           {ActivationCheckpointing::kNone, ActivationCheckpointing::kSelective, ActivationCheckpointing::kFull}) {
        const Gradients found = t.gradients(prefix, batches, checkpointing, loss);
        EXPECT_EQ(loss, plain_loss);
        for (const auto& [name, gradient] : plain) EXPECT_TRUE(test::same_bits(found.at(name), gradient)) << name;
      }
    EXPECT_EQ(cache->stats().positions_read, 5 * batches.front().num_positions());
  }
}

TEST(DocumentMask, DecidesWhichTrainingItIs) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "mistral", {1, 3});
  config::RunConfig config = small_config();
  ASSERT_TRUE(config.data.document_mask) << "the default";
  const TrainSummary masked = train(config, model.expanded, dir / "masked");
  config.data.document_mask = false;
  const TrainSummary classic = train(config, model.expanded, dir / "classic");
  EXPECT_NE(masked.train_loss, classic.train_loss);
  EXPECT_EQ(masked.total_tokens, classic.total_tokens);
  const std::string message =
      test::message_of<ConfigError>([&] { train(config, model.expanded, dir / "masked", /*resume=*/true); });
  EXPECT_NE(message.find("document_mask"), std::string::npos) << message;
}

TEST(DocumentMask, LetsAStepThatHasNothingToPredictChangeNothing) {
  Training t("llama");
  const std::vector<data::Sequence> rows = {{.tokens = {5, 6, 7}, .document_starts = {1, 2}}};
  const model::Batch batch = model::to_batch(data::make_batch(rows), at::kCPU);
  const auto before = test::parameters_of(t.decoder);
  optim::AdamW optimizer(t.trainable.parameters(), {.weight_decay = 0.1});
  std::map<std::string, double> rates;
  for (const optim::Parameter& p : t.trainable.parameters()) rates[p.name] = 1e-2;
  const StepResult result = train_step(t.decoder, t.trainable, optimizer, {&batch, 1},
                                       test::whole_rates(t.trainable.parameters(), rates), 1.0);
  EXPECT_TRUE(result.finite);
  EXPECT_EQ(result.num_targets, 0);
  for (const auto& [name, value] : test::parameters_of(t.decoder)) EXPECT_TRUE(value.equal(before.at(name))) << name;
}

}  // namespace
}  // namespace adept::train
