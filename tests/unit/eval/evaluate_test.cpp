#include "adept/eval/evaluate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "adept/core/error.h"
#include "tests/support/document_ids.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"

namespace adept::eval {
namespace {

using test::Says;
using ::testing::HasSubstr;

model::Decoder decoder_of(const std::string& kind, at::ScalarType dtype = at::kFloat) {
  const model::ModelConfig config = test::tiny_config(test::config_of_kind(kind));
  return model::Decoder(config, test::random_weights(config, 5, dtype));
}

// Documents of these lengths; document i has 10 i + 7 bytes.
data::TokenDataset dataset_of(const std::vector<std::int64_t>& lengths) {
  std::vector<std::vector<std::int32_t>> documents;
  std::vector<std::int64_t> bytes;
  for (const std::int64_t length : lengths) {
    bytes.push_back(10 * static_cast<std::int64_t>(documents.size()) + 7);
    documents.push_back(test::random_tokens(length, 77 + documents.size()));
  }
  return data::TokenDataset(data::DatasetInfo{.name = "set", .vocab_size = 53, .counts = {}}, documents, bytes);
}

const std::vector<std::int64_t> kLengths = {11, 2, 1, 29, 6, 17};

// -log p of token t of a document, the model reading from `begin`; from the logits, in fp64.
double token_loss(const model::Decoder& decoder, std::span<const std::int32_t> document, std::int64_t begin,
                  std::int64_t t) {
  const at::NoGradGuard no_grad;
  data::Sequence sequence{.tokens = {document.begin() + begin, document.begin() + t + 1}};
  const model::Batch batch = model::to_batch(data::make_batch(std::span(&sequence, 1)), at::kCPU);
  const at::Tensor row = decoder.logits(decoder.forward(batch.input_ids, {}))[0][t - begin - 1].to(at::kDouble);
  return -row.log_softmax(-1)[document[static_cast<std::size_t>(t)]].item<double>();
}

struct Direct {
  double total = 0;
  std::int64_t tokens = 0;
};

// Every document in windows of seq_len; token by token. Each token is predicted in the first window that has a context
// for it.
Direct direct_loss(const model::Decoder& decoder, const data::TokenDataset& dataset, std::int64_t seq_len,
                   std::int64_t stride) {
  Direct result;
  for (std::int64_t d = 0; d < dataset.num_documents(); ++d) {
    const std::vector<std::int32_t> document = test::document_ids(dataset, d);
    const auto n = static_cast<std::int64_t>(document.size());
    for (std::int64_t t = 1; t < n; ++t)
      for (std::int64_t begin = 0; begin < t; begin += stride)
        if (t < begin + seq_len) {
          result.total += token_loss(decoder, document, begin, t);
          ++result.tokens;
          break;
        }
  }
  return result;
}

TEST(Evaluate, IsTheMeanOverEveryTokenOfEachDocumentAlone) {
  for (const std::string kind : {"llama_biased_tied", "qwen3"}) {
    SCOPED_TRACE(kind);
    const model::Decoder decoder = decoder_of(kind);
    const data::TokenDataset dataset = dataset_of(kLengths);
    const Direct direct = direct_loss(decoder, dataset, 64, 64);
    const Result found = evaluate(decoder, {"set", data::windows(dataset, {.seq_len = 64})}, {.batch_size = 4});
    EXPECT_EQ(found.tokens, 10 + 1 + 28 + 5 + 16);
    EXPECT_EQ(direct.tokens, found.tokens);
    EXPECT_EQ(found.documents, 5) << "the document of one token has nothing to predict";
    const double loss = direct.total / static_cast<double>(direct.tokens);
    EXPECT_NEAR(found.value("loss"), loss, test::tolerance(at::kFloat).values * loss);
    EXPECT_DOUBLE_EQ(found.value("perplexity"), std::exp(found.value("loss")));
    // 60 predicted tokens and the first of each of the five documents; their bytes are 7, 17, 37, 47 and 57.
    EXPECT_DOUBLE_EQ(found.value("bits_per_byte"),
                     found.value("loss") * (60 + 5) / std::numbers::ln2 / (7 + 17 + 37 + 47 + 57));
  }
}

TEST(Evaluate, PredictsEachTokenOfLongDocumentsOnceWithAndWithoutOverlap) {
  const model::Decoder decoder = decoder_of("llama");
  const data::TokenDataset dataset = dataset_of(kLengths);
  for (const std::int64_t stride : {1, 3, 7, 8}) {
    SCOPED_TRACE(stride);
    const Result found = evaluate(decoder, {"set", data::windows(dataset, {.seq_len = 8, .stride = stride})}, {});
    const Direct direct = direct_loss(decoder, dataset, 8, stride);
    EXPECT_EQ(found.tokens, direct.tokens);
    if (stride < 8) {
      EXPECT_EQ(found.tokens, 60) << "windows overlap, so each token but the first has a context";
    }
    const double loss = direct.total / static_cast<double>(direct.tokens);
    EXPECT_NEAR(found.value("loss"), loss, test::tolerance(at::kFloat).values * loss);
  }
}

TEST(Evaluate, DoesNotDependOnTheBatchSize) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const model::Decoder decoder = decoder_of("mistral", dtype);
    const data::SequenceSet sequences = data::windows(dataset_of(kLengths), {.seq_len = 8});
    const Result alone = evaluate(decoder, {"set", sequences}, {.batch_size = 1});
    for (const std::int64_t batch_size : {2, 3, 100}) {
      const Result batched = evaluate(decoder, {"set", sequences}, {.batch_size = batch_size});
      EXPECT_EQ(batched.tokens, alone.tokens);
      EXPECT_EQ(batched.documents, alone.documents);
      EXPECT_NEAR(batched.value("loss"), alone.value("loss"), test::tolerance(dtype).values * alone.value("loss"))
          << batch_size;
    }
  }
}

TEST(Evaluate, OfPackedTextPredictsEosAndWithoutADocumentMaskTheNextDocument) {
  const model::Decoder decoder = decoder_of("llama");
  const data::TokenDataset dataset = dataset_of({5, 4});
  const data::SequenceSet sequences = data::packed(dataset, {.seq_len = 8, .eos = 2, .document_mask = false});
  const Result found = evaluate(decoder, {"set", sequences}, {});
  std::vector<std::int32_t> stream;
  for (const std::int64_t d : {0, 1}) {
    const std::vector<std::int32_t> document = test::document_ids(dataset, d);
    stream.insert(stream.end(), document.begin(), document.end());
    stream.push_back(2);
  }
  double total = 0;
  for (const auto& [begin, end] : {std::pair{0, 8}, {8, 11}})
    for (int t = begin + 1; t < end; ++t) total += token_loss(decoder, stream, begin, t);
  EXPECT_EQ(found.tokens, 9);
  EXPECT_NEAR(found.value("loss"), total / 9, test::tolerance(at::kFloat).values * found.value("loss"));
  const Result masked = evaluate(decoder, {"set", data::packed(dataset, {.seq_len = 8, .eos = 2})}, {});
  double alone = 0;
  for (const auto& [begin, end] : {std::pair{0, 6}, {6, 8}, {8, 11}})
    for (int t = begin + 1; t < end; ++t) alone += token_loss(decoder, stream, begin, t);
  EXPECT_EQ(masked.tokens, 8);
  EXPECT_NEAR(masked.value("loss"), alone / 8, test::tolerance(at::kFloat).values * masked.value("loss"));
}

TEST(Evaluate, RefusesTextInWhichNothingIsPredicted) {
  const data::SequenceSet sequences = data::windows(dataset_of({1, 1, 1}), {.seq_len = 8});
  EXPECT_THAT(test::message_of<DataError>([&] { evaluate(decoder_of("llama"), {"held_out", sequences}, {}); }),
              Says("held_out: found no token...3 documents of one token"));
}

TEST(Evaluate, LeavesNoGraphOnATrainableModel) {
  model::Decoder decoder = decoder_of("llama");
  at::Tensor& weight = decoder.weights().layers[3].feed_forward.body.output.linear.weight;
  weight.requires_grad_();
  evaluate(decoder, {"set", data::windows(dataset_of({9}), {.seq_len = 8})});
  EXPECT_FALSE(weight.grad().defined());
}

TEST(Metrics, HaveTheErrorOfAMeanOverSequences) {
  // Two sequences of one token have the error of the mean of two values: their distance by two.
  const auto metric_of = [](std::vector<Scores::OfSequence> sequences, std::string_view name) {
    const Result result{.metrics = metrics_of(
                            {.sequences = std::move(sequences), .counts = {.covered = 5, .measured = 5, .bytes = 10}})};
    return *result.find(name);
  };
  const auto error_of_loss = [&](std::vector<Scores::OfSequence> sequences) {
    return metric_of(std::move(sequences), "loss").standard_error;
  };
  EXPECT_DOUBLE_EQ(error_of_loss({{2.0, 1}, {3.0, 1}}).value(), 0.5);
  EXPECT_DOUBLE_EQ(error_of_loss({{2.0, 4}, {1.0, 2}, {0.5, 1}}).value(), 0.0)
      << "every token of every sequence has 0.5";
  EXPECT_FALSE(error_of_loss({{2.0, 4}})) << "one sequence tells nothing of others";
  for (const auto& [name, value, error] :
       {std::tuple{"loss", 2.5, 0.5},
        {"perplexity", std::exp(2.5), 0.5 * std::exp(2.5)},
        {"bits_per_byte", 2.5 / std::numbers::ln2 / 2, 0.5 / std::numbers::ln2 / 2}}) {
    const Metric metric = metric_of({{2.0, 1}, {3.0, 1}}, name);
    EXPECT_DOUBLE_EQ(metric.value, value) << name;
    EXPECT_DOUBLE_EQ(metric.standard_error.value(), error) << name;
    EXPECT_FALSE(metric.higher_is_better) << name;
  }
  EXPECT_EQ(describe(metric_of({{2.0, 1}, {3.0, 1}}, "loss")), "loss 2.5000 (+- 0.5000)");
}

// All metrics, each with a value of its own.
std::vector<Metric> all_metrics(double value) {
  std::vector<Metric> metrics;
  for (const std::string& name : metric_names()) metrics.push_back({.name = name, .value = value *= 1.1});
  return metrics;
}

TEST(Results, SurviveTheRoundTripThroughText) {
  const Results results = {
      {"domain",
       {.metrics = all_metrics(0.1 + 0.2),
        .tokens = 1LL << 40,
        .documents = 3,
        .text = {.tokens = 4, .all_tokens = 5, .documents = 3, .all_documents = 6, .is_sample = true}}},
      {"general", {.metrics = all_metrics(2.5), .tokens = 7, .documents = 2}}};
  const Json json = parse_json(results_to_json(results).dump(), "text");
  EXPECT_EQ(json["datasets"].size(), 2U);
  const auto found = results_from_json(json, "results.json");
  ASSERT_EQ(found.size(), 2U);
  for (const auto& [name, result] : results) {
    for (const Metric& metric : result.metrics) EXPECT_EQ(found.at(name).value(metric.name), metric.value);
    EXPECT_EQ(found.at(name).tokens, result.tokens);
    EXPECT_EQ(found.at(name).documents, result.documents);
    EXPECT_EQ(found.at(name).text, result.text);
  }
}

TEST(Results, ThatAreInfiniteAreReadBack) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const std::string& name : metric_names()) {
    SCOPED_TRACE(name);
    Results results = {{"far", {.metrics = all_metrics(1924.25), .tokens = 7}}};
    for (Metric& metric : results["far"].metrics)
      if (metric.name == name) metric.value = kInfinity;
    const Json json = parse_json(results_to_json(results).dump(), "text");
    EXPECT_TRUE(json["datasets"]["far"][name].is_null());
    const Result found = results_from_json(json, "results.json").at("far");
    for (const Metric& metric : found.metrics) {
      const double worst = metric.higher_is_better ? -kInfinity : kInfinity;
      EXPECT_EQ(metric.value, metric.name == name ? worst : results["far"].value(metric.name));
    }
  }
}

TEST(Results, NameTheFileAndWhatIsWrong) {
  const auto refusal = [](const std::string& text) {
    return test::message_of<DataError>([&] { results_from_json(parse_json(text, "text"), "dir/results.json"); });
  };
  EXPECT_THAT(refusal("{}"), HasSubstr("dir/results.json: has no \"datasets\". Run `adept eval` again."));
  EXPECT_THAT(refusal("[]"), HasSubstr("dir/results.json: has no \"datasets\""));
  EXPECT_THAT(refusal(R"({"datasets": {"a": {"loss": 1}}})"),
              HasSubstr("dir/results.json: not a result of `adept eval`"));
  EXPECT_THAT(refusal(R"({"datasets": {"a": {"loss": 1}}})"), HasSubstr("perplexity"));
  EXPECT_THAT(refusal(R"({"datasets": {"a": 3}})"), HasSubstr("not a result of `adept eval`"));
}

}  // namespace
}  // namespace adept::eval
