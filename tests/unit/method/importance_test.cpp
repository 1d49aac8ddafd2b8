#include "adept/method/importance.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "adept/config/enums.h"
#include "adept/core/error.h"
#include "adept/io/record.h"
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

std::vector<ProbeBatch> of_one_source(const std::vector<model::Batch>& batches) {
  std::vector<ProbeBatch> result;
  for (const model::Batch& batch : batches) result.push_back({.batch = batch, .source = 0});
  return result;
}

Importance probe_with(const std::string& method, const model::Decoder& decoder,
                      const std::vector<model::Batch>& batches) {
  const std::vector<std::vector<ProbeBatch>> parts = {of_one_source(batches)};
  return probe(decoder, parts, {.methods = {method}, .num_lowest = 2}, Progress::silent()).at(0);
}

void expect_equal(const Importance& a, const Importance& b) {
  EXPECT_EQ(a.method, b.method);
  EXPECT_EQ(a.model, b.model);
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
    EXPECT_EQ(a.layers[l].lowest_share, b.layers[l].lowest_share);
  }
  EXPECT_EQ(a.stability.num_lowest, b.stability.num_lowest);
  EXPECT_EQ(a.stability.num_resamples, b.stability.num_resamples);
  EXPECT_EQ(a.stability.same_set_share, b.stability.same_set_share);
  EXPECT_EQ(a.stability.degrees_of_freedom, b.stability.degrees_of_freedom);
  EXPECT_EQ(a.stability.covariance, b.stability.covariance);
  ASSERT_EQ(a.separation.has_value(), b.separation.has_value());
  if (!a.separation) return;
  EXPECT_EQ(a.separation->reached, b.separation->reached);
  EXPECT_EQ(a.separation->required_share, b.separation->required_share);
  EXPECT_EQ(a.separation->looks, b.separation->looks);
}

TEST(MaskOut, ReusingThePrefixGivesTheNaiveResultBitForBit) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      const model::Decoder decoder = test::decoder_of_kind(kind, dtype);
      ProbeSamples fast{.num_layers = 4, .tokens = {}, .losses = {}, .sources = {}, .source_weights = {}, .tables = {}},
          naive = fast;
      for (const ProbeBatch& batch : of_one_source(padded_batches())) {
        measure_bypass(decoder, batch, fast, [](std::int64_t) {});
        measure_bypass_naive(decoder, batch, naive);
      }
      EXPECT_EQ(fast.losses, naive.losses);
      EXPECT_EQ(fast.tables.at(Measure::kBypassLoss).values, naive.tables.at(Measure::kBypassLoss).values);
      EXPECT_EQ(fast.tables.at(Measure::kBypassLoss).values.size(), 8U * 4U);
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

double mean_of(const std::vector<double>& totals, const std::vector<double>& tokens) {
  return token_mean({.totals = totals, .tokens = tokens, .sources = {}, .weights = {}});
}

TEST(MaskOut, IsTheTokenWeightedRiseOfTheLossOfEachSequenceAlone) {
  for (const std::string kind : {"llama_biased_tied", "qwen3"}) {
    SCOPED_TRACE(kind);
    const model::Decoder decoder = test::decoder_of_kind(kind);
    const Importance found = probe_with("mask_out", decoder, padded_batches());
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
    EXPECT_NEAR(found.baseline_loss, mean_of(base, counts), tolerance);
    ASSERT_EQ(found.layers.size(), 4U);
    for (std::size_t l = 0; l < 4; ++l) {
      std::vector<double> rise;
      model::LayerMask bypass(4, false);
      bypass[l] = true;
      for (std::size_t i = 0; i < rows.size(); ++i) rise.push_back(sequence_loss(decoder, rows[i], bypass) - base[i]);
      EXPECT_EQ(found.layers[l].index, static_cast<int>(l));
      EXPECT_NEAR(found.layers[l].score, mean_of(rise, counts), 2 * tolerance) << l;
      const auto ci95 = token_mean_ci95({.totals = rise, .tokens = counts, .sources = {}, .weights = {}});
      EXPECT_NEAR(found.layers[l].ci95[0], ci95[0], 8 * tolerance) << l;
      EXPECT_NEAR(found.layers[l].ci95[1], ci95[1], 8 * tolerance) << l;
      EXPECT_GT(std::abs(found.layers[l].score), 100 * tolerance) << "the comparison would not see an error";
    }
  }
}

TEST(Probe, DoesNotDependOnWhatThePaddingHolds) {
  const model::Decoder decoder = test::decoder_of_kind("mistral");
  for (const ImportanceMethod& method : importance_methods())
    expect_equal(probe_with(std::string(method.name), decoder, padded_batches(0)),
                 probe_with(std::string(method.name), decoder, padded_batches(17)));
}

TEST(Probe, OfOneSequenceHasInfiniteIntervalsAndNoStability) {
  for (const ImportanceMethod& method : importance_methods()) {
    const Importance found =
        probe_with(std::string(method.name), test::decoder_of_kind("llama"), {test::random_batch({9})});
    for (const LayerImportance& layer : found.layers) {
      EXPECT_EQ(layer.ci95[0], -kInfinity) << method.name;
      EXPECT_EQ(layer.ci95[1], kInfinity) << method.name;
    }
    EXPECT_EQ(found.stability.num_resamples, 0) << method.name;
  }
}

TEST(Probe, RefusesTextWithoutAPredictedToken) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  for (const auto& batches : {std::vector<model::Batch>{}, {test::random_batch({1, 1})}})
    for (const ImportanceMethod& method : importance_methods())
      EXPECT_THAT(test::message_of<DataError>([&] { probe_with(std::string(method.name), decoder, batches); }),
                  HasSubstr("found no token to predict; expected documents of at least two tokens"));
}

TEST(Probe, RefusesAModelWithAWeightThatIsNotANumber) {
  model::Decoder decoder = test::decoder_of_kind("llama");
  decoder.weights().layers[2].up_proj.weight[3][4] = std::nan("");
  for (const char* method : {"mask_out", "cumulative", "fisher", "block_influence", "taylor_gate"})
    EXPECT_THAT(test::message_of<NonFiniteError>([&] { probe_with(method, decoder, {test::random_batch({9, 4})}); }),
                HasSubstr("the score is not finite"))
        << method;
}

// What one sequence says of each layer, from one graph over the whole model; products and sums in fp64.
struct DirectMeasures {
  double loss_sum = 0;
  std::vector<std::map<std::string, double>> first_order{4};  // of each tensor: sum |g theta|
  std::vector<double> squared = std::vector<double>(4), gate = squared, angle = squared;
};

DirectMeasures measures_by_autograd(const std::string& kind, const data::Sequence& sequence) {
  model::Decoder decoder = test::decoder_of_kind(kind);
  const auto table = model::named_parameters(decoder.config(), decoder.weights());
  for (const auto& p : table)
    if (p.layer >= 0) p.tensor->requires_grad_();
  const model::Batch batch = model::to_batch(data::make_batch(std::span(&sequence, 1)), at::kCPU);
  std::vector<at::Tensor> states = {decoder.embed(batch.input_ids)};
  for (std::int64_t l = 0; l < 4; ++l) {
    states.push_back(decoder.layer(states.back(), l));
    states.back().retain_grad();
  }
  const at::Tensor loss = decoder.loss_sum(states.back(), batch.targets);
  (loss / static_cast<double>(batch.num_targets)).backward();
  DirectMeasures result{.loss_sum = loss.item<double>()};
  for (const auto& p : table) {
    if (p.layer < 0) continue;
    const auto l = static_cast<std::size_t>(p.layer);
    const at::Tensor gradient = p.tensor->grad().to(at::kDouble);
    result.first_order[l][p.unit] = (p.tensor->detach().to(at::kDouble) * gradient).abs().sum().item<double>();
    result.squared[l] += gradient.square().sum().item<double>();
  }
  for (std::size_t l = 0; l < 4; ++l) {
    const at::Tensor before = states[l].detach().to(at::kDouble)[0], after = states[l + 1].detach().to(at::kDouble)[0];
    const at::Tensor gradient = states[l + 1].grad().to(at::kDouble)[0];
    result.gate[l] = -(gradient * (after - before)).sum().item<double>();
    for (std::int64_t t = sequence.first_target - 1; t + 1 < std::ssize(sequence.tokens); ++t)
      result.angle[l] += 1 - (before[t].dot(after[t]) / before[t].norm() / after[t].norm()).item<double>();
  }
  return result;
}

// Token-weighted means over the padded batches.
struct DirectScores {
  double loss = 0;
  std::vector<double> cumulative = std::vector<double>(4), fisher = cumulative, gate = cumulative, angle = cumulative;
  std::map<std::string, std::vector<double>> by_part;  // (4) each
  std::vector<std::vector<double>> cumulative_totals{4};
  std::vector<double> counts;
};

DirectScores scores_by_autograd(const std::string& kind) {
  DirectScores result;
  const auto rows = rows_of_padded_batches();
  double tokens = 0;
  for (const auto& row : rows) tokens += static_cast<double>(row.num_targets());
  for (const auto& row : rows) {
    const DirectMeasures m = measures_by_autograd(kind, row);
    const auto n = static_cast<double>(row.num_targets());
    result.counts.push_back(n);
    result.loss += m.loss_sum / tokens;
    for (std::size_t l = 0; l < 4; ++l) {
      double sum = 0;
      for (const auto& [part, value] : m.first_order[l]) {
        auto& values = result.by_part[part];
        values.resize(4);
        values[l] += n * value / tokens;
        sum += value;
      }
      result.cumulative_totals[l].push_back(n * sum);
      result.cumulative[l] += n * sum / tokens;
      result.fisher[l] += n * m.squared[l] / tokens;
      result.gate[l] += n * m.gate[l] / tokens;  // of the mean loss, times its tokens: of the sum
      result.angle[l] += m.angle[l] / tokens;
    }
  }
  return result;
}

void expect_scores(const Importance& found, const std::vector<double>& expected) {
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t l = 0; l < 4; ++l)
    EXPECT_NEAR(found.layers[l].score, expected[l], 2 * test::tolerance(at::kFloat).gradients * largest)
        << found.method << " " << l;
}

TEST(GradientMethods, AreTheTokenWeightedMeansOfPlainAutograd) {
  for (const std::string kind : {"llama_biased_tied", "qwen2", "qwen3"}) {
    SCOPED_TRACE(kind);
    const DirectScores direct = scores_by_autograd(kind);
    const model::Decoder decoder = test::decoder_of_kind(kind);
    const Importance cumulative = probe_with("cumulative", decoder, padded_batches());
    EXPECT_EQ(cumulative.method, "cumulative");
    EXPECT_EQ(cumulative.sequences, 8);
    EXPECT_EQ(cumulative.tokens, 49);
    EXPECT_NEAR(cumulative.baseline_loss, direct.loss, 2e-5 * direct.loss);
    const double largest = *std::max_element(direct.cumulative.begin(), direct.cumulative.end());
    std::vector<double> shares = direct.cumulative;
    for (double& share : shares) share /= largest;
    expect_scores(cumulative, shares);
    // By resampling, so near the interval of a ratio: to the totals of the largest layer, which is 1 itself.
    const auto top = static_cast<std::size_t>(std::max_element(shares.begin(), shares.end()) - shares.begin());
    for (std::size_t l = 0; l < 4; ++l) {
      const auto [low, high] = token_mean_ci95({.totals = direct.cumulative_totals[l],
                                                .tokens = direct.cumulative_totals[top],
                                                .sources = {},
                                                .weights = {}});
      const auto& found = cumulative.layers[l].ci95;
      EXPECT_LE(found[0], cumulative.layers[l].score);
      EXPECT_GE(found[1], cumulative.layers[l].score);
      EXPECT_NEAR(found[1] - found[0], high - low, 0.5 * (high - low)) << l;
    }
    expect_scores(probe_with("fisher", decoder, padded_batches()), direct.fisher);
    expect_scores(probe_with("taylor_gate", decoder, padded_batches()), direct.gate);
    expect_scores(probe_with("block_influence", decoder, padded_batches()), direct.angle);

    // 1 - the mean over tensors of the layer's place among the layers, from 1, divided by the number of layers.
    std::vector<double> ranks(4, 1.0);
    for (const auto& [part, values] : direct.by_part)
      for (std::size_t l = 0; l < 4; ++l) {
        const auto larger = std::count_if(values.begin(), values.end(), [&](double v) { return v > values[l]; });
        ranks[l] -= (1.0 + static_cast<double>(larger)) / 4.0 / static_cast<double>(direct.by_part.size());
      }
    expect_scores(probe_with("rank_aggregation", decoder, padded_batches()), ranks);
  }
}

TEST(GradientMethods, LeaveWeightsAndTheirGradientsAsTheyWere) {
  model::Decoder decoder = test::decoder_of_kind("qwen3");
  at::Tensor& trained = decoder.weights().layers[1].o_proj.weight;
  trained.requires_grad_();
  trained.mutable_grad() = trained.detach() * 0.25;
  const auto before = test::parameters_of(decoder);
  const at::Tensor grad = trained.grad().clone();
  probe_with("cumulative", decoder, padded_batches());
  for (const auto& [name, value] : test::parameters_of(decoder)) EXPECT_TRUE(test::same_bits(value, before.at(name)));
  EXPECT_TRUE(test::same_bits(trained.grad(), grad));
  for (const auto& p : model::named_parameters(decoder.config(), decoder.weights())) {
    const bool is_trained = p.name == "model.layers.1.self_attn.o_proj.weight";
    EXPECT_EQ(p.tensor->requires_grad(), is_trained) << p.name;
    EXPECT_EQ(p.tensor->grad().defined(), is_trained) << p.name;
  }
}

TEST(Probe, OfAllMethodsAtOnceGivesWhatEachGivesAlone) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  std::vector<std::string> names;
  for (const ImportanceMethod& method : importance_methods()) names.emplace_back(method.name);
  const std::vector<std::vector<ProbeBatch>> parts = {of_one_source(padded_batches())};
  const auto all = probe(decoder, parts, {.methods = names, .num_lowest = 2}, Progress::silent());
  ASSERT_EQ(all.size(), names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Importance alone = probe_with(names[i], decoder, padded_batches());
    EXPECT_EQ(all[i].method, names[i]);
    for (std::size_t l = 0; l < 4; ++l) {
      const double tolerance = 1e-5 * std::abs(alone.layers[l].score);  // one row alone, or several side by side
      EXPECT_NEAR(all[i].layers[l].score, alone.layers[l].score, tolerance) << names[i] << " " << l;
    }
  }
}

TEST(Probe, WeighsSourcesAsToldWhateverTheirSizes) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  const model::Batch large = test::random_batch({9, 12, 7, 11}, 1), small = test::random_batch({5, 6}, 2);
  for (const double weight : {1.0, 3.0}) {
    const std::vector<std::vector<ProbeBatch>> parts = {{{large, 0, weight}, {small, 1, 1.0}}};
    const double share = weight / (weight + 1);
    for (const ImportanceMethod& method : importance_methods()) {
      if (!method.is_mean) continue;
      const std::string name(method.name);
      const Importance both = probe(decoder, parts, {.methods = {name}, .num_lowest = 1}, Progress::silent()).at(0);
      const Importance a = probe_with(name, decoder, {large}), b = probe_with(name, decoder, {small});
      EXPECT_NEAR(both.baseline_loss, share * a.baseline_loss + (1 - share) * b.baseline_loss, 1e-9);
      for (std::size_t l = 0; l < 4; ++l)
        EXPECT_NEAR(both.layers[l].score, share * a.layers[l].score + (1 - share) * b.layers[l].score, 1e-9) << name;
    }
  }
}

// Sequences of ten tokens whose measures are given: values[n][l].
ProbeSamples made_samples(const std::vector<std::vector<double>>& values) {
  ProbeSamples samples{.num_layers = static_cast<int>(values[0].size()),
                       .tokens = std::vector<double>(values.size(), 10.0),
                       .losses = std::vector<double>(values.size(), 20.0),
                       .sources = std::vector<int>(values.size(), 0),
                       .source_weights = {{0, 1.0}},
                       .tables = {}};
  for (const auto& row : values)
    for (const double value : row) samples.tables[Measure::kBypassLoss].values.push_back(10 * value);
  return samples;
}

TEST(Stability, IsTheShareOfResamplesInWhichALayerIsAmongTheLowest) {
  // Layer 0 is always lowest; 1 and 2 trade places from sequence to sequence; 3 is always highest.
  std::vector<std::vector<double>> values;
  for (int n = 0; n < 40; ++n) values.push_back({0.1, n % 2 == 0 ? 0.2 : 0.4, n % 2 == 0 ? 0.41 : 0.21, 0.9});
  const Importance found = summarize(made_samples(values), importance_method("mask_out"), 2);
  EXPECT_EQ(found.stability.num_lowest, 2);
  EXPECT_EQ(found.stability.num_resamples, 1000);
  EXPECT_NEAR(found.layers[0].lowest_share, 1, 1e-9);
  EXPECT_EQ(found.layers[3].lowest_share, 0);
  EXPECT_NEAR(found.layers[1].lowest_share + found.layers[2].lowest_share, 1, 1e-9);
  EXPECT_NEAR(found.stability.same_set_share, found.layers[1].lowest_share, 1e-9);
  // The mean of 40 draws of +-0.2 has a standard deviation of 0.0316, the means differ by 0.01: P(2 z * 0.0316 < 0.01).
  EXPECT_NEAR(found.layers[1].lowest_share, 0.56, 0.06);
  EXPECT_NEAR(found.stability.covariance[1][1], 0.01 / 40, 0.01 / 40 * 0.15);
  EXPECT_NEAR(found.stability.covariance[1][2], -0.01 / 40, 0.01 / 40 * 0.15);
  EXPECT_NEAR(found.stability.covariance[0][0], 0, 1e-20);
  EXPECT_EQ(found.stability.degrees_of_freedom, 39);
}

TEST(Stability, IsTheSameEveryTime) {
  std::vector<std::vector<double>> values;
  for (int n = 0; n < 20; ++n) values.push_back({std::sin(n), std::cos(n), 0.1});
  const ProbeSamples samples = made_samples(values);
  expect_equal(summarize(samples, importance_method("mask_out"), 1),
               summarize(samples, importance_method("mask_out"), 1));
}

TEST(UntilSeparated, StopsAtTheFirstLookThatIsCertainAndElseReadsEverything) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  std::vector<std::vector<ProbeBatch>> parts;
  for (unsigned seed = 0; seed < 4; ++seed)
    parts.push_back({{test::random_batch(std::vector<std::int64_t>(20, 12), seed + 1), 0}});
  const auto with = [&](int num_lowest) {
    return probe(decoder, parts, {.methods = {"mask_out"}, .num_lowest = num_lowest, .until_separated = true},
                 Progress::silent())
        .at(0);
  };
  const Importance trivial = with(4);  // all four of four layers
  ASSERT_TRUE(trivial.separation);
  EXPECT_TRUE(trivial.separation->reached);
  EXPECT_EQ(trivial.separation->looks, 1);
  EXPECT_EQ(trivial.sequences, 20);
  EXPECT_DOUBLE_EQ(trivial.separation->required_share, 1 - 0.05 / 4);
  for (const int k : {1, 2, 3}) {
    const Importance found = with(k);
    const bool certain = found.stability.same_set_share >= found.separation->required_share;
    EXPECT_EQ(found.separation->reached, certain) << k;
    EXPECT_EQ(found.sequences, 20 * found.separation->looks) << k;
    if (!certain) {
      EXPECT_EQ(found.separation->looks, 4) << k;
    }
  }
}

TEST(Probe, RefusesToChooseMoreLayersThanThereAre) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  const std::vector<std::vector<ProbeBatch>> parts = {of_one_source(padded_batches())};
  for (const int k : {0, 5})
    EXPECT_THAT(test::message_of<ConfigError>(
                    [&] { probe(decoder, parts, {.methods = {"mask_out"}, .num_lowest = k}, Progress::silent()); }),
                HasSubstr(fmt::format("found {}; expected 1 to 4, the layers of the model", k)));
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

TEST(ImportanceMethods, AreThoseOfTheConfiguration) {
  std::vector<std::string_view> names;
  for (const auto& choice : config::kChoices<config::ProbeMethod>) names.push_back(choice.name);
  std::vector<std::string_view> known;
  for (const ImportanceMethod& method : importance_methods()) {
    known.push_back(method.name);
    EXPECT_EQ(importance_method(method.name).name, method.name);
  }
  EXPECT_EQ(known, names);
  EXPECT_THAT(test::message_of<ConfigError>([] { importance_method("mask-out"); }),
              HasSubstr("found \"mask-out\"; expected one of mask_out, cumulative, rank_aggregation, fisher"));
}

TEST(Stability, LeavesOutWhatIsExcluded) {
  std::vector<std::vector<double>> values;
  for (int n = 0; n < 40; ++n) values.push_back({0.1, n % 2 == 0 ? 0.2 : 0.4, n % 2 == 0 ? 0.41 : 0.21, 0.9});
  const Importance found = summarize(made_samples(values), importance_method("mask_out"), 1, {0});
  EXPECT_EQ(found.layers[0].lowest_share, 0);
  EXPECT_NEAR(found.layers[1].lowest_share + found.layers[2].lowest_share, 1, 1e-9);
  EXPECT_LT(found.stability.same_set_share, 0.9) << "layers 1 and 2 are not separated, whatever layer 0 is";
}

Importance hand_made() {
  Importance importance{.method = "mask_out",
                        .model = {{.weights = "xxh3:0123", .config = "xxh3:4567", .tokenizer = "xxh3:89ab"}},
                        .baseline_loss = 2.0 / 3.0,
                        .tokens = 1234567890123,
                        .sequences = 17,
                        .layers = layers_with_scores({0.1 + 0.2, -1e-17, 5e300}),
                        .stability = {},
                        .separation = {}};
  importance.layers[0].ci95 = {-0.1, 0.7};
  importance.layers[1].ci95 = {-kInfinity, kInfinity};
  importance.layers[2].ci95 = {4e300, 6e300};
  normalize_and_rank(importance.layers);
  return importance;
}

TEST(Probe, GoesOnFromWhatAnEarlierSessionMeasured) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  std::vector<std::vector<ProbeBatch>> parts;
  for (std::uint64_t part = 0; part < 3; ++part)
    parts.push_back(of_one_source({test::random_batch({6, 5, 7, 4, 6, 5, 7, 4}, 2 * part + 1),
                                   test::random_batch({6, 5, 7, 4, 6, 5, 7, 4}, 2 * part + 2)}));
  for (const bool until_separated : {false, true}) {
    const ProbeOptions options = {
        .methods = {"mask_out", "fisher"}, .num_lowest = 2, .until_separated = until_separated};
    const std::vector<Importance> whole = probe(decoder, parts, options, Progress::silent());
    for (const std::int64_t batches : {1, 3}) {
      // What a session that was interrupted after so many batches leaves, through its file.
      ProbeState state{.batches = batches, .samples = {}};
      std::vector<std::vector<ProbeBatch>> first = {{}};
      for (const auto& part : parts)
        for (const ProbeBatch& batch : part)
          if (std::ssize(first[0]) < batches) first[0].push_back(batch);
      if (batches > 0) {
        ProbeState earlier;
        probe(decoder, first, {.methods = options.methods, .num_lowest = 2}, Progress::silent(), earlier);
        EXPECT_EQ(earlier.batches, batches);
        state.samples = samples_from_json(parse_json(to_json(earlier.samples).dump(), "samples"));
      }
      const std::vector<Importance> resumed = probe(decoder, parts, options, Progress::silent(), state);
      ASSERT_EQ(resumed.size(), whole.size());
      for (std::size_t i = 0; i < whole.size(); ++i) {
        SCOPED_TRACE(fmt::format("{} after {} batches", whole[i].method, batches));
        expect_equal(resumed[i], whole[i]);
        EXPECT_EQ(resumed[i].separation.has_value(), whole[i].separation.has_value());
        if (whole[i].separation) {
          EXPECT_EQ(resumed[i].separation->looks, whole[i].separation->looks);
        }
      }
    }
  }
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

TEST(ImportanceJson, KeepsStabilityAndSeparation) {
  Importance importance = hand_made();
  importance.stability = {.num_lowest = 2,
                          .num_resamples = 1000,
                          .same_set_share = 0.875,
                          .degrees_of_freedom = 15,
                          .covariance = {{1, 0.5, 0}, {0.5, 2, -0.25}, {0, -0.25, 3e-9}}};
  importance.separation = Separation{.reached = true, .required_share = 0.99, .looks = 3};
  importance.layers[1].lowest_share = 0.125;
  expect_equal(importance_from_json(parse_json(to_json(importance).dump(2), "text"), "text"), importance);
  Json json = to_json(importance);
  json["stability"]["covariance"].erase(0);
  EXPECT_THAT(test::message_of<DataError>([&] { importance_from_json(json, "x"); }),
              HasSubstr("stability.covariance has not a row and a column for each of the 3 layers"));
}

TEST(ImportanceJson, RefusesWhatNoProbeWrites) {
  Importance importance = hand_made();
  importance.stability = {
      .num_lowest = 2, .num_resamples = 1000, .same_set_share = 0.875, .degrees_of_freedom = 15, .covariance = {}};
  const auto refusal = [&](const char* pointer, const Json& value) {
    Json json = to_json(importance);
    json[Json::json_pointer(pointer)] = value;
    return test::message_of<DataError>([&] { importance_from_json(json, "scores.json"); });
  };
  EXPECT_THAT(refusal("/stability/degrees_of_freedom", 0),
              HasSubstr("stability.degrees_of_freedom is 0; expected at least 1"));
  EXPECT_THAT(refusal("/stability/num_lowest", 4), HasSubstr("stability.num_lowest is 4; expected 1 to 3"));
  EXPECT_THAT(refusal("/stability/resamples", 0), HasSubstr("stability.resamples is 0; expected at least 1"));
  EXPECT_THAT(refusal("/stability/same_set_share", 1.5), HasSubstr("stability.same_set_share is 1.5; expected 0 to 1"));
  EXPECT_THAT(refusal("/layers/1/lowest_share", -0.5), HasSubstr("layers[1].lowest_share is -0.5; expected 0 to 1"));
}

TEST(ImportanceFile, ThatWasDamagedOrEditedSaysSoAndWithoutAChecksumIsTakenAsItIs) {
  const test::TemporaryDirectory dir;
  const std::filesystem::path path = dir / "importance.json";
  const Importance importance = hand_made();
  io::write_record(path, to_json(importance));
  expect_equal(read_importance(path), importance);
  const std::string good = test::read_file(path);
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i * 5 % 8)));
    test::write_file(path, bad);
    try {
      expect_equal(read_importance(path), importance);  // the same content, such as 1E-17 for 1e-17
    } catch (const DataError& error) {
      ASSERT_THAT(error.what(), HasSubstr("importance.json")) << bad;
    }
  }
  Json edited = parse_json(good, "good");
  edited["layers"][1]["score"] = 0.5;
  test::write_file(path, edited.dump());
  EXPECT_THAT(test::message_of<DataError>([&] { read_importance(path); }),
              HasSubstr("importance.json: is damaged or was edited: its content does not match its checksum. Make it "
                        "again; if you edited it, remove its field \"checksum\", and it is taken as it is."));
  edited.erase("checksum");
  test::write_file(path, edited.dump());
  EXPECT_EQ(read_importance(path).layers[1].score, 0.5);
}

TEST(ImportanceJson, HoldsSeveralMethodsOfWhichOneIsAskedFor) {
  std::vector<Importance> both = {hand_made(), hand_made()};
  both[1].method = "fisher";
  both[1].layers[0].score = 7;
  normalize_and_rank(both[1].layers);
  const Json json = parse_json(to_json(both).dump(), "text");
  expect_equal(importance_from_json(json, "x"), both[0]);
  expect_equal(importance_from_json(json, "x", "mask_out"), both[0]);
  expect_equal(importance_from_json(json, "x", "fisher"), both[1]);
  EXPECT_THAT(test::message_of<ConfigError>([&] { importance_from_json(json, "x.json", "cumulative"); }),
              HasSubstr("x.json: found no scores of cumulative; expected a method that was probed: mask_out, fisher"));
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
  EXPECT_THAT(refusal("/model", 1), HasSubstr("model.weights is missing"));
  EXPECT_THAT(refusal("/model/config.json", 1), HasSubstr("model.config.json is number; expected a string"));
  EXPECT_THAT(refusal("/tokens", 0), HasSubstr("tokens is 0; expected at least 1"));
  EXPECT_THAT(refusal("/layers/0/ci95", {2, 1}), HasSubstr("layers[0].ci95 is [2,1]; expected its ends in order"));
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
