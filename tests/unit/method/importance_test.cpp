// Scores against slow direct computations of the same.
#include "adept/method/importance.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "adept/method/beyond/first_order_improvement.h"
#include "adept/method/beyond/statistics.h"
#include "tests/support/forward_without.h"
#include "tests/support/tolerance.h"
#include "tests/unit/method/importance_util.h"

namespace adept::method {
namespace {

// The plain definition: L+1 whole forward passes. Rises and losses of the rows of a batch that predict a token.
void mask_out_naive(const model::Decoder& decoder, const model::Batch& batch, std::vector<double>& rises,
                    std::vector<double>& losses) {
  const at::NoGradGuard no_grad;
  const auto num_layers = static_cast<std::size_t>(decoder.num_layers());
  std::vector<at::Tensor> columns;
  for (std::size_t l = 0; l <= num_layers; ++l) {
    const std::vector<int> bypassed(l < num_layers ? 1 : 0, static_cast<int>(l));
    const at::Tensor h = test::forward_without(bypassed, decoder, batch.input_ids, batch.context());
    columns.push_back(decoder.token_losses(h, batch.targets).to(at::kDouble).sum(1));
  }
  const at::Tensor table = at::stack(columns, 1);  // (B, L+1)
  const std::vector<double> counts = target_counts(batch);
  for (std::int64_t b = 0; b < batch.rows(); ++b) {
    if (counts[static_cast<std::size_t>(b)] == 0) continue;
    const double loss = table[b][-1].item<double>();
    for (std::int64_t l = 0; l < decoder.num_layers(); ++l) rises.push_back(table[b][l].item<double>() - loss);
    losses.push_back(loss);
  }
}

TEST(MaskOut, ReusingThePrefixGivesTheNaiveResultBitForBit) {
  const auto& [measure, pass, is_mean, score, as_well_from] =
      std::get<FromSequences>(importance_method("mask_out").scores);
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      const model::Decoder decoder = test::decoder_of_kind(kind, dtype);
      ProbeSamples fast{.num_layers = 4, .tokens = {}, .losses = {}, .sources = {}, .source_weights = {}, .tables = {}};
      std::vector<double> rises, losses;
      for (const ProbeBatch& batch : of_one_source(padded_batches())) {
        add_sequences(batch, fast);
        std::vector<dist::Numbers> numbers(5);
        for (const std::vector<std::int64_t>& pieces :
             {std::vector<std::int64_t>{0, 3, 4}, {1, 2}}) {  // of two processes
          const auto found = pass->measure(decoder, batch, pieces, [](std::int64_t) {});
          for (std::size_t i = 0; i < pieces.size(); ++i) numbers[static_cast<std::size_t>(pieces[i])] = found[i];
        }
        pass->add(decoder, batch, numbers, fast);
        mask_out_naive(decoder, batch.batch, rises, losses);
      }
      EXPECT_EQ(fast.losses, losses);
      EXPECT_EQ(fast.table(measure).values, rises);
      EXPECT_EQ(rises.size(), 8U * 4U);
    }
  }
}

// Summed loss of one sequence alone, from the logits, in fp64.
double sequence_loss(const model::Decoder& decoder, const data::Sequence& sequence, const std::vector<int>& bypassed) {
  const at::NoGradGuard no_grad;
  const model::Batch batch = model::to_batch(data::make_batch(std::span(&sequence, 1)), at::kCPU);
  const at::Tensor log_probabilities =
      decoder.logits(test::forward_without(bypassed, decoder, batch.input_ids, {})).to(at::kDouble).log_softmax(-1)[0];
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
      for (std::size_t i = 0; i < rows.size(); ++i)
        rise.push_back(sequence_loss(decoder, rows[i], {static_cast<int>(l)}) - base[i]);
      EXPECT_EQ(found.layers[l].index, static_cast<int>(l));
      EXPECT_NEAR(found.layers[l].score, mean_of(rise, counts), 2 * tolerance) << l;
      const auto ci95 = token_mean_ci95({.totals = rise, .tokens = counts, .sources = {}, .weights = {}});
      EXPECT_NEAR(found.layers[l].ci95[0], ci95[0], 8 * tolerance) << l;
      EXPECT_NEAR(found.layers[l].ci95[1], ci95[1], 8 * tolerance) << l;
      EXPECT_GT(std::abs(found.layers[l].score), 100 * tolerance) << "the comparison would not see an error";
    }
  }
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
    states.push_back(decoder.layer(states.back(), l, {}));
    states.back().retain_grad();
  }
  const at::Tensor loss = decoder.loss_sum(states.back(), batch.targets);
  (loss / static_cast<double>(batch.num_targets)).backward();
  DirectMeasures result{.loss_sum = loss.item<double>()};
  for (const auto& p : table) {
    if (p.layer < 0) continue;
    const auto l = static_cast<std::size_t>(p.layer);
    const at::Tensor gradient = p.tensor->grad().to(at::kDouble);
    result.first_order[l][p.local_name] =
        ((p.tensor->detach().to(at::kDouble) + p.offset) * gradient).abs().sum().item<double>();
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
  std::map<std::string, std::vector<double>> by_tensor;  // (4) each
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
      for (const auto& [tensor, value] : m.first_order[l]) {
        auto& values = result.by_tensor[tensor];
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
  for (const std::string& kind : test::model_kinds()) {
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
      if (l == top && kind == "gemma3") {  // whose next layer has 0.87: in some resamples that one is the largest
        EXPECT_DOUBLE_EQ(found[1], 1);
        EXPECT_GT(found[0], shares[1]);
        continue;
      }
      EXPECT_NEAR(found[1] - found[0], high - low, 0.5 * (high - low)) << l;
    }
    expect_scores(probe_with("fisher", decoder, padded_batches()), direct.fisher);
    expect_scores(probe_with("taylor_gate", decoder, padded_batches()), direct.gate);
    expect_scores(probe_with("block_influence", decoder, padded_batches()), direct.angle);

    // 1 - the mean over tensors of the layer's place among the layers, from 1, divided by the number of layers.
    std::vector<double> ranks(4, 1.0);
    for (const auto& [tensor, values] : direct.by_tensor)
      for (std::size_t l = 0; l < 4; ++l) {
        const auto larger = std::count_if(values.begin(), values.end(), [&](double v) { return v > values[l]; });
        ranks[l] -= (1.0 + static_cast<double>(larger)) / 4.0 / static_cast<double>(direct.by_tensor.size());
      }
    expect_scores(probe_with("rank_aggregation", decoder, padded_batches()), ranks);
  }
}

TEST(GradientMethods, LeaveWeightsAndTheirGradientsAsTheyWere) {
  model::Decoder decoder = test::decoder_of_kind("qwen3");
  at::Tensor& trained = decoder.weights().layers[1].attention.body.output.linear.weight;
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

TEST(FirstOrderImportance, SumsTheMagnitudesOfTheProducts) {
  at::Tensor values = at::tensor({1.0, -2.0, 3.0}, at::kFloat).requires_grad_();
  const at::Tensor gradient = at::tensor({0.5, 0.25, -1.0}, at::kFloat);
  model::Parameter parameter;
  parameter.tensor = &values;
  EXPECT_DOUBLE_EQ(first_order_importance(parameter, gradient), 0.5 + 0.5 + 3.0);
  parameter.offset = 1;
  EXPECT_DOUBLE_EQ(first_order_importance(parameter, gradient), 1 + 0.25 + 4) << "of 2, -1 and 4, which take effect";
  parameter.offset = 0;
  values = values.detach().to(at::kBFloat16);
  EXPECT_DOUBLE_EQ(first_order_importance(parameter, gradient.to(at::kBFloat16)), 4.0);
}

TEST(FirstOrderImprovement, OfMatricesInANarrowerTypeIsThatOfTheWideOnesBitForBit) {
  for (const std::string& kind : test::model_kinds()) {
    model::Decoder wide = test::decoder_of_kind(kind, at::kFloat), narrow = test::decoder_of_kind(kind, at::kFloat);
    const auto kept = model::named_parameters(narrow.config(), narrow.weights()),
               same = model::named_parameters(wide.config(), wide.weights());
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (kept[i].shape.size() != 2) continue;
      *kept[i].tensor = kept[i].tensor->to(at::kBFloat16);
      *same[i].tensor = kept[i].tensor->to(at::kFloat);
    }
    for (model::Decoder* decoder : {&narrow, &wide})
      if (decoder->config().tie_word_embeddings) decoder->weights().lm_head = decoder->weights().embed_tokens;
    const std::vector<ProbeBatch> domain = {{test::random_batch({9, 4, 7}), 0}},
                                  general = {{test::random_batch({8, 5}, 2), 0}};
    const auto improvement = [&](const model::Decoder& decoder) {
      return first_order_improvement(decoder, general, domain, [](std::int64_t) {});
    };
    const Importance found = improvement(narrow), wanted = improvement(wide);
    EXPECT_EQ(found.baseline_loss, wanted.baseline_loss);
    EXPECT_GT(wanted.layers.at(0).score, 0);
    for (std::size_t l = 0; l < wanted.layers.size(); ++l) EXPECT_EQ(found.layers[l].figures, wanted.layers[l].figures);
  }
}

}  // namespace
}  // namespace adept::method
