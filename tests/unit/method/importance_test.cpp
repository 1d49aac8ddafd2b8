#include "adept/method/importance.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "adept/core/error.h"
#include "adept/method/statistics.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"

namespace adept::method {
namespace {

using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Different lengths in each batch, so that rows are padded, and a row with a context that is not scored.
std::vector<model::Batch> padded_batches(std::int32_t pad_id = 0) {
  auto with_context = test::random_sequences({9, 12}, 3);
  with_context[1].first_target = 5;
  return {test::random_batch({9, 4, 7}, 1, pad_id), test::random_batch({2, 13}, 2, pad_id),
          model::to_batch(data::make_batch(with_context, pad_id), at::kCPU), test::random_batch({5}, 4, pad_id)};
}

std::vector<data::Sequence> rows_of_padded_batches() {
  std::vector<data::Sequence> rows;
  for (const auto& part : {test::random_sequences({9, 4, 7}, 1), test::random_sequences({2, 13}, 2),
                           test::random_sequences({9, 12}, 3), test::random_sequences({5}, 4)})
    rows.insert(rows.end(), part.begin(), part.end());
  rows[6].first_target = 5;
  return rows;
}

void expect_equal(const Importance& a, const Importance& b) {
  EXPECT_EQ(a.method, b.method);
  EXPECT_EQ(a.model_hash, b.model_hash);
  EXPECT_EQ(a.baseline_loss, b.baseline_loss);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.sequences, b.sequences);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    SCOPED_TRACE(l);
    EXPECT_EQ(a.layers[l].index, b.layers[l].index);
    EXPECT_EQ(a.layers[l].score, b.layers[l].score);
    EXPECT_EQ(a.layers[l].normalized, b.layers[l].normalized);
    EXPECT_EQ(a.layers[l].rank, b.layers[l].rank);
    EXPECT_EQ(a.layers[l].ci95, b.layers[l].ci95);
  }
}

TEST(MaskOut, ReusingThePrefixGivesTheNaiveResultBitForBit) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      const model::Decoder decoder = test::decoder_of_kind(kind, dtype);
      expect_equal(mask_out(decoder, padded_batches(), Progress::silent()), mask_out_naive(decoder, padded_batches()));
    }
  }
}

// Summed loss of one sequence alone, from the logits, in fp64.
double sequence_loss(const model::Decoder& decoder, const data::Sequence& sequence, const model::LayerMask& bypass) {
  const at::NoGradGuard no_grad;
  const model::Batch batch = model::to_batch(data::make_batch(std::span(&sequence, 1)), at::kCPU);
  const at::Tensor log_probabilities =
      decoder.logits(decoder.forward(batch.input_ids, bypass)).to(at::kDouble).log_softmax(-1)[0];
  double sum = 0;
  for (std::size_t t = static_cast<std::size_t>(sequence.first_target); t < sequence.tokens.size(); ++t)
    sum -= log_probabilities[static_cast<std::int64_t>(t) - 1][sequence.tokens[t]].item<double>();
  return sum;
}

TEST(MaskOut, IsTheTokenWeightedRiseOfTheLossOfEachSequenceAlone) {
  for (const std::string kind : {"llama_biased_tied", "qwen3"}) {
    SCOPED_TRACE(kind);
    const model::Decoder decoder = test::decoder_of_kind(kind);
    const Importance found = mask_out(decoder, padded_batches(), Progress::silent());
    const auto rows = rows_of_padded_batches();
    std::vector<double> base, counts;
    for (const auto& row : rows) {
      base.push_back(sequence_loss(decoder, row, {}));
      counts.push_back(static_cast<double>(row.num_targets()));
    }
    EXPECT_EQ(found.method, "mask_out");
    EXPECT_EQ(found.sequences, 8);
    EXPECT_EQ(found.tokens, 8 + 3 + 6 + 1 + 12 + 8 + 7 + 4);
    const double tolerance = test::tolerance(at::kFloat).values * found.baseline_loss;
    EXPECT_NEAR(found.baseline_loss, weighted_mean(base, counts), tolerance);
    ASSERT_EQ(found.layers.size(), 4U);
    for (std::size_t l = 0; l < 4; ++l) {
      std::vector<double> rise;
      model::LayerMask bypass(4, false);
      bypass[l] = true;
      for (std::size_t i = 0; i < rows.size(); ++i) rise.push_back(sequence_loss(decoder, rows[i], bypass) - base[i]);
      EXPECT_EQ(found.layers[l].index, static_cast<int>(l));
      EXPECT_NEAR(found.layers[l].score, weighted_mean(rise, counts), 2 * tolerance) << l;
      const auto ci95 = weighted_mean_ci95(rise, counts);
      EXPECT_NEAR(found.layers[l].ci95[0], ci95[0], 8 * tolerance) << l;
      EXPECT_NEAR(found.layers[l].ci95[1], ci95[1], 8 * tolerance) << l;
      EXPECT_GT(std::abs(found.layers[l].score), 100 * tolerance) << "the comparison would not see an error";
    }
  }
}

TEST(MaskOut, DoesNotDependOnWhatThePaddingHolds) {
  const model::Decoder decoder = test::decoder_of_kind("mistral");
  expect_equal(mask_out(decoder, padded_batches(0), Progress::silent()),
               mask_out(decoder, padded_batches(17), Progress::silent()));
}

TEST(MaskOut, OneSequenceHasAnInfiniteInterval) {
  const Importance found = mask_out(test::decoder_of_kind("llama"), {test::random_batch({9})}, Progress::silent());
  for (const LayerImportance& layer : found.layers) {
    EXPECT_EQ(layer.ci95[0], -kInfinity);
    EXPECT_EQ(layer.ci95[1], kInfinity);
  }
}

TEST(MaskOut, RefusesTextWithoutAPredictedToken) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  for (const auto& batches : {std::vector<model::Batch>{}, {test::random_batch({1, 1})}}) {
    EXPECT_THAT(test::message_of<DataError>([&] { mask_out(decoder, batches, Progress::silent()); }),
                HasSubstr("found no token to predict; expected documents of at least two tokens"));
    EXPECT_THAT(test::message_of<DataError>([&] { cumulative(decoder, batches, Progress::silent()); }),
                HasSubstr("found no token to predict; expected documents of at least two tokens"));
  }
}

TEST(LayerImportance, RefusesAModelWithAWeightThatIsNotANumber) {
  model::Decoder decoder = test::decoder_of_kind("llama");
  decoder.weights().layers[2].up_proj.weight[3][4] = std::nan("");
  const std::vector<model::Batch> batches = {test::random_batch({9, 4})};
  EXPECT_THAT(test::message_of<NonFiniteError>([&] { mask_out(decoder, batches, Progress::silent()); }),
              HasSubstr("importance of layer 0: the score is not finite"));
  EXPECT_THAT(test::message_of<NonFiniteError>([&] { cumulative(decoder, batches, Progress::silent()); }),
              HasSubstr("the score is not finite"));
}

// I of each layer for one sequence: autograd over the whole model, products and sums in fp64.
std::vector<double> importance_by_autograd(const std::string& kind, const data::Sequence& sequence, double& loss_sum) {
  model::Decoder decoder = test::decoder_of_kind(kind);
  model::Weights& weights = decoder.weights();
  const auto table = model::named_parameters(decoder.config(), weights);
  for (const auto& p : table)
    if (p.layer >= 0) p.tensor->requires_grad_();
  const model::Batch batch = model::to_batch(data::make_batch(std::span(&sequence, 1)), at::kCPU);
  const at::Tensor loss = decoder.loss_sum(decoder.forward(batch.input_ids), batch.targets);
  (loss / static_cast<double>(batch.num_targets)).backward();
  loss_sum = loss.item<double>();
  std::vector<double> layers(4, 0.0);
  for (const auto& p : table)
    if (p.layer >= 0)
      layers[static_cast<std::size_t>(p.layer)] +=
          (p.tensor->detach().to(at::kDouble) * p.tensor->grad().to(at::kDouble)).abs().sum().item<double>();
  return layers;
}

TEST(Cumulative, IsTheMeanOverSequencesOfTheSumsFromPlainAutograd) {
  for (const std::string kind : {"llama_biased_tied", "qwen2", "qwen3"}) {
    SCOPED_TRACE(kind);
    const Importance found = cumulative(test::decoder_of_kind(kind), padded_batches(), Progress::silent());
    std::vector<std::vector<double>> totals(4);
    std::vector<double> counts, losses;
    for (const auto& row : rows_of_padded_batches()) {
      const auto n = static_cast<double>(row.num_targets());
      double loss = 0;
      const auto layers = importance_by_autograd(kind, row, loss);
      for (std::size_t l = 0; l < 4; ++l) totals[l].push_back(layers[l] * n);
      counts.push_back(n);
      losses.push_back(loss);
    }
    double largest = 0;
    for (const auto& layer : totals) largest = std::max(largest, weighted_mean(layer, counts));
    EXPECT_EQ(found.method, "cumulative");
    EXPECT_EQ(found.sequences, 8);
    EXPECT_EQ(found.tokens, 49);
    EXPECT_NEAR(found.baseline_loss, weighted_mean(losses, counts), 2e-5 * found.baseline_loss);
    const double tolerance = 2 * test::tolerance(at::kFloat).gradients;
    for (std::size_t l = 0; l < 4; ++l) {
      EXPECT_NEAR(found.layers[l].score, weighted_mean(totals[l], counts) / largest, tolerance) << l;
      const auto ci95 = weighted_mean_ci95(totals[l], counts);
      EXPECT_NEAR(found.layers[l].ci95[0], ci95[0] / largest, 4 * tolerance) << l;
      EXPECT_NEAR(found.layers[l].ci95[1], ci95[1] / largest, 4 * tolerance) << l;
    }
    EXPECT_EQ(std::max_element(found.layers.begin(), found.layers.end(),
                               [](const auto& a, const auto& b) { return a.score < b.score; })
                  ->score,
              1.0);
  }
}

TEST(Cumulative, LeavesWeightsAndTheirGradientsAsTheyWere) {
  model::Decoder decoder = test::decoder_of_kind("qwen3");
  at::Tensor& trained = decoder.weights().layers[1].o_proj.weight;
  trained.requires_grad_();
  trained.mutable_grad() = trained.detach() * 0.25;
  const auto before = test::parameters_of(decoder);
  const at::Tensor grad = trained.grad().clone();
  cumulative(decoder, padded_batches(), Progress::silent());
  for (const auto& [name, value] : test::parameters_of(decoder)) EXPECT_TRUE(test::same_bits(value, before.at(name)));
  EXPECT_TRUE(test::same_bits(trained.grad(), grad));
  for (const auto& p : model::named_parameters(decoder.config(), decoder.weights())) {
    const bool is_trained = p.name == "model.layers.1.self_attn.o_proj.weight";
    EXPECT_EQ(p.tensor->requires_grad(), is_trained) << p.name;
    EXPECT_EQ(p.tensor->grad().defined(), is_trained) << p.name;
  }
}

std::vector<LayerImportance> layers_with_scores(const std::vector<double>& scores) {
  std::vector<LayerImportance> layers;
  for (const double score : scores) layers.push_back({.index = static_cast<int>(layers.size()), .score = score});
  return layers;
}

TEST(NormalizeAndRank, MapsTheRangeToZeroToOneAndRanksTiesByIndex) {
  auto layers = layers_with_scores({0.3, -0.1, 0.3, 0.1});
  normalize_and_rank(layers);
  const std::vector<double> normalized = {1, 0, 1, 0.5};
  const std::vector<int> ranks = {1, 4, 2, 3};
  for (std::size_t l = 0; l < 4; ++l) {
    EXPECT_DOUBLE_EQ(layers[l].normalized, normalized[l]) << l;
    EXPECT_EQ(layers[l].rank, ranks[l]) << l;
  }
}

TEST(NormalizeAndRank, GivesZeroWhereAllScoresAreEqual) {
  auto layers = layers_with_scores({0.25, 0.25, 0.25});
  normalize_and_rank(layers);
  for (std::size_t l = 0; l < 3; ++l) {
    EXPECT_EQ(layers[l].normalized, 0);
    EXPECT_EQ(layers[l].rank, static_cast<int>(l) + 1);
  }
}

TEST(NormalizeAndRank, RefusesScoresThatAreNotFinite) {
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    auto layers = layers_with_scores({0.1, bad, 0.2});
    EXPECT_THAT(test::message_of<NonFiniteError>([&] { normalize_and_rank(layers); }),
                HasSubstr("importance of layer 1"));
  }
}

TEST(ImportanceMethod, NamesGoBothWaysAndOthersAreListed) {
  for (const ImportanceMethod method : {ImportanceMethod::kMaskOut, ImportanceMethod::kCumulative})
    EXPECT_EQ(importance_method_from_string(to_string(method)), method);
  EXPECT_THAT(test::message_of<ConfigError>([] { importance_method_from_string("mask-out"); }),
              HasSubstr("found \"mask-out\"; expected mask_out or cumulative"));
}

Importance hand_made() {
  Importance importance{.method = "mask_out",
                        .model_hash = "xxh3:0123",
                        .baseline_loss = 2.0 / 3.0,
                        .tokens = 1234567890123,
                        .sequences = 17,
                        .layers = layers_with_scores({0.1 + 0.2, -1e-17, 5e300})};
  importance.layers[0].ci95 = {-0.1, 0.7};
  importance.layers[1].ci95 = {-kInfinity, kInfinity};
  importance.layers[2].ci95 = {4e300, 6e300};
  normalize_and_rank(importance.layers);
  return importance;
}

TEST(ImportanceJson, SurvivesTheRoundTripThroughTextWithInfiniteIntervals) {
  const Importance importance = hand_made();
  const std::string text = to_json(importance).dump(2);
  EXPECT_THAT(text, HasSubstr("null"));
  expect_equal(importance_from_json(parse_json(text, "text"), "text"), importance);
  const test::TemporaryDirectory dir;
  test::write_file(dir / "importance.json", text);
  expect_equal(read_importance(dir / "importance.json"), importance);
}

TEST(ImportanceJson, HasTheFieldsOfTheContract) {
  const Json json = to_json(hand_made());
  for (const char* key : {"method", "baseline_loss", "tokens", "sequences", "layers"}) EXPECT_TRUE(json.contains(key));
  for (const char* key : {"index", "score", "normalized", "rank", "ci95"}) EXPECT_TRUE(json["layers"][1].contains(key));
  EXPECT_EQ(json["layers"][0]["ci95"], Json::parse("[-0.1, 0.7]"));
}

TEST(ImportanceJson, NamesTheFieldThatIsWrong) {
  const auto refusal = [](const char* pointer, const Json& value) {
    Json json = to_json(hand_made());
    json[Json::json_pointer(pointer)] = value;
    return test::message_of<DataError>([&] { importance_from_json(json, "scores.json"); });
  };
  EXPECT_THAT(refusal("/method", 3), HasSubstr("scores.json: not importance scores of `adept probe`: method is 3; "
                                               "expected a string. Run `adept probe` again."));
  EXPECT_THAT(refusal("/baseline_loss", nullptr), HasSubstr("baseline_loss is null; expected a number"));
  EXPECT_THAT(refusal("/tokens", 1.5), HasSubstr("tokens is 1.5; expected an integer"));
  EXPECT_THAT(refusal("/sequences", 18446744073709551615U), HasSubstr("sequences is 18446744073709551615"));
  EXPECT_THAT(refusal("/model_hash", 1), HasSubstr("model_hash is 1; expected a string"));
  EXPECT_THAT(refusal("/layers", "all"), HasSubstr("layers is \"all\"; expected a list"));
  EXPECT_THAT(refusal("/layers/2", 1), HasSubstr("layers[2].index is missing"));
  EXPECT_THAT(refusal("/layers/1/score", nullptr), HasSubstr("layers[1].score is null; expected a number"));
  EXPECT_THAT(refusal("/layers/1/index", 4294967297), HasSubstr("layers[1].index is 4294967297; expected an integer"));
  EXPECT_THAT(refusal("/layers/1/ci95", 0.5), HasSubstr("layers[1].ci95 is 0.5; expected a list of two numbers"));
  EXPECT_THAT(refusal("/layers/1/ci95/0", "low"), HasSubstr("layers[1].ci95 holds \"low\"; expected numbers or null"));
  EXPECT_THAT(refusal("/layers", Json::array()), HasSubstr("scores.json: holds no layers"));
  EXPECT_THAT(refusal("/layers/1/index", 2), HasSubstr("scores.json: entry 1 of layers has index 2; expected every "
                                                       "layer once, in order"));
  for (const char* key : {"method", "baseline_loss", "tokens", "sequences", "layers"}) {
    Json json = to_json(hand_made());
    json.erase(key);
    EXPECT_THAT(test::message_of<DataError>([&] { importance_from_json(json, "x"); }),
                HasSubstr(std::string(key) + " is missing"));
  }
  EXPECT_THAT(test::message_of<DataError>([] { importance_from_json(Json::array(), "x"); }),
              HasSubstr("method is missing"));
}

}  // namespace
}  // namespace adept::method
