#include "adept/eval/perplexity.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "adept/core/error.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"

namespace adept::eval {
namespace {

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
    const auto document = dataset.document(d);
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

TEST(Perplexity, IsTheMeanOverEveryTokenOfEachDocumentAlone) {
  for (const std::string kind : {"llama_biased_tied", "qwen3"}) {
    SCOPED_TRACE(kind);
    const model::Decoder decoder = decoder_of(kind);
    const data::TokenDataset dataset = dataset_of(kLengths);
    const Direct direct = direct_loss(decoder, dataset, 64, 64);
    const Perplexity found =
        evaluate_perplexity(decoder, "set", data::windows(dataset, {.seq_len = 64}), {.batch_size = 4});
    EXPECT_EQ(found.tokens, 10 + 1 + 28 + 5 + 16);
    EXPECT_EQ(direct.tokens, found.tokens);
    EXPECT_EQ(found.documents, 5) << "the document of one token has nothing to predict";
    const double loss = direct.total / static_cast<double>(direct.tokens);
    EXPECT_NEAR(found.loss, loss, test::tolerance(at::kFloat).values * loss);
    EXPECT_DOUBLE_EQ(found.perplexity, std::exp(found.loss));
    // 60 predicted tokens and the first of each of the five documents; their bytes are 7, 17, 37, 47 and 57.
    EXPECT_DOUBLE_EQ(found.bits_per_byte, found.loss * (60 + 5) / std::numbers::ln2 / (7 + 17 + 37 + 47 + 57));
  }
}

TEST(Perplexity, PredictsEachTokenOfLongDocumentsOnceWithAndWithoutOverlap) {
  const model::Decoder decoder = decoder_of("llama");
  const data::TokenDataset dataset = dataset_of(kLengths);
  for (const std::int64_t stride : {1, 3, 7, 8}) {
    SCOPED_TRACE(stride);
    const Perplexity found =
        evaluate_perplexity(decoder, "set", data::windows(dataset, {.seq_len = 8, .stride = stride}), {});
    const Direct direct = direct_loss(decoder, dataset, 8, stride);
    EXPECT_EQ(found.tokens, direct.tokens);
    if (stride < 8) {
      EXPECT_EQ(found.tokens, 60) << "windows overlap, so each token but the first has a context";
    }
    const double loss = direct.total / static_cast<double>(direct.tokens);
    EXPECT_NEAR(found.loss, loss, test::tolerance(at::kFloat).values * loss);
  }
}

TEST(Perplexity, DoesNotDependOnTheBatchSize) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const model::Decoder decoder = decoder_of("mistral", dtype);
    const data::SequenceSet sequences = data::windows(dataset_of(kLengths), {.seq_len = 8});
    const Perplexity alone = evaluate_perplexity(decoder, "set", sequences, {.batch_size = 1});
    for (const std::int64_t batch_size : {2, 3, 100}) {
      const Perplexity batched = evaluate_perplexity(decoder, "set", sequences, {.batch_size = batch_size});
      EXPECT_EQ(batched.tokens, alone.tokens);
      EXPECT_EQ(batched.documents, alone.documents);
      EXPECT_NEAR(batched.loss, alone.loss, test::tolerance(dtype).values * alone.loss) << batch_size;
    }
  }
}

TEST(Perplexity, OfPackedTextPredictsEosAndTheNextDocument) {
  const model::Decoder decoder = decoder_of("llama");
  const data::TokenDataset dataset = dataset_of({5, 4});
  const data::SequenceSet sequences = data::packed(dataset, {.seq_len = 8, .eos = 2});
  const Perplexity found = evaluate_perplexity(decoder, "set", sequences, {});
  std::vector<std::int32_t> stream(dataset.document(0).begin(), dataset.document(0).end());
  stream.push_back(2);
  stream.insert(stream.end(), dataset.document(1).begin(), dataset.document(1).end());
  stream.push_back(2);
  double total = 0;
  for (const auto& [begin, end] : {std::pair{0, 8}, {8, 11}})
    for (int t = begin + 1; t < end; ++t) total += token_loss(decoder, stream, begin, t);
  EXPECT_EQ(found.tokens, 9);
  EXPECT_NEAR(found.loss, total / 9, test::tolerance(at::kFloat).values * found.loss);
}

TEST(Perplexity, RefusesTextInWhichNothingIsPredicted) {
  const data::SequenceSet sequences = data::windows(dataset_of({1, 1, 1}), {.seq_len = 8});
  EXPECT_THAT(test::message_of<DataError>([&] { evaluate_perplexity(decoder_of("llama"), "held_out", sequences, {}); }),
              HasSubstr("held_out: found no token to predict (3 documents of one token); expected longer documents"));
}

TEST(Perplexity, LeavesNoGraphOnATrainableModel) {
  model::Decoder decoder = decoder_of("llama");
  at::Tensor& weight = decoder.weights().layers[3].feed_forward.body.output.linear.weight;
  weight.requires_grad_();
  evaluate_perplexity(decoder, "set", data::windows(dataset_of({9}), {.seq_len = 8}), {});
  EXPECT_FALSE(weight.grad().defined());
}

TEST(Results, SurviveTheRoundTripThroughText) {
  const std::map<std::string, Perplexity> results = {
      {"domain",
       {.loss = 0.1 + 0.2,
        .perplexity = 1.35,
        .bits_per_byte = 1e-3,
        .tokens = 1LL << 40,
        .documents = 3,
        .text = {.tokens = 4, .all_tokens = 5, .documents = 3, .all_documents = 6, .is_sample = true}}},
      {"general", {.loss = 2.5, .perplexity = 12.18, .bits_per_byte = 0.9, .tokens = 7, .documents = 2}}};
  const Json json = parse_json(results_to_json(results).dump(), "text");
  EXPECT_EQ(json["datasets"].size(), 2U);
  const auto found = results_from_json(json, "results.json");
  ASSERT_EQ(found.size(), 2U);
  for (const auto& [name, result] : results) {
    EXPECT_EQ(found.at(name).loss, result.loss);
    EXPECT_EQ(found.at(name).perplexity, result.perplexity);
    EXPECT_EQ(found.at(name).bits_per_byte, result.bits_per_byte);
    EXPECT_EQ(found.at(name).tokens, result.tokens);
    EXPECT_EQ(found.at(name).documents, result.documents);
    EXPECT_EQ(found.at(name).text, result.text);
  }
}

TEST(Results, OfALossWhosePerplexityIsInfiniteAreReadBack) {
  const double loss = 1924.25;
  const std::map<std::string, Perplexity> results = {
      {"far", {.loss = loss, .perplexity = std::exp(loss), .tokens = 7}}};
  const Json json = parse_json(results_to_json(results).dump(), "text");
  EXPECT_TRUE(json["datasets"]["far"]["perplexity"].is_null());
  const Perplexity found = results_from_json(json, "results.json").at("far");
  EXPECT_EQ(found.loss, loss);
  EXPECT_EQ(found.perplexity, std::numeric_limits<double>::infinity());
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
