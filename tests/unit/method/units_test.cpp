#include "adept/method/unit_importance.h"
#include "adept/method/unit_rates.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "adept/core/error.h"
#include "adept/method/beyond/unit_rate_options.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"

namespace adept::method {
namespace {

using test::Says;
using ::testing::HasSubstr;

const std::vector<int> kCopiesAfter = {1, 3};

std::vector<ProbeBatch> probe_batches() {
  return {{test::random_batch({9, 4, 7}, 1)}, {test::random_batch({13, 2}, 2)}, {test::random_batch({1}, 3)}};
}

UnitValues importance_of(const test::ExpandedModel& model, const model::Decoder& decoder,
                         const std::vector<ProbeBatch>& batches, Progress& progress) {
  return unit_importance(model.expansion, make_units(model.expansion, decoder), decoder, batches, progress);
}

// Gives a copy outputs of its own, as training does.
void change_copy(model::Decoder& decoder, int index) {
  at::manual_seed(static_cast<std::uint64_t>(index));
  for (const auto& p : model::layer_parameters(decoder.weights(), index))
    *p.tensor = *p.tensor + at::randn(p.shape) * 0.05;
}

// I of every parameter of a layer: plain autograd over the whole model, everything else in fp64.
UnitValues importance_by_autograd(model::Decoder& decoder, int layer) {
  const auto parameters = model::layer_parameters(decoder.weights(), layer);
  for (const auto& p : parameters) *p.tensor = p.tensor->detach().clone().requires_grad_();
  UnitValues totals;
  double tokens = 0;
  for (const auto& [batch, source, weight] : probe_batches()) {
    if (batch.num_targets == 0) continue;
    const auto n = static_cast<double>(batch.num_targets);
    for (const auto& p : parameters) p.tensor->mutable_grad().reset();
    (decoder.loss_sum(decoder.forward(batch.input_ids, {}), batch.targets) / n).backward();
    for (const auto& p : parameters)
      totals[p.name] += n * ((p.tensor->detach().to(at::kDouble) + p.offset) * p.tensor->grad().to(at::kDouble))
                                .abs()
                                .mean()
                                .item<double>();
    tokens += n;
  }
  for (const auto& p : parameters) *p.tensor = p.tensor->detach();
  for (auto& [name, total] : totals) total /= tokens;
  return totals;
}

void expect_close(double found, double expected, const std::string& name) {
  EXPECT_NEAR(found, expected, 2 * test::tolerance(at::kFloat).gradients * expected) << name;
  EXPECT_GT(expected, 0) << name;
}

TEST(Units, PartitionTheTensorsOfTheExpandedLayers) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), kind, kCopiesAfter);
    model::Decoder decoder = test::load_decoder(model.expanded);
    const auto units = test::names_of(make_units(model.expansion, decoder));
    const std::set<std::string> unique(units.begin(), units.end());
    EXPECT_EQ(unique.size(), units.size()) << "a unit twice";
    std::set<std::string> expected;
    for (const auto& p : model::named_parameters(decoder.config(), decoder.weights()))
      if (p.layer == 2 || p.layer == 5) expected.insert(p.name);
    EXPECT_EQ(unique, expected);
    EXPECT_GE(units.size(), 2U * 6U) << "two norms and four projections, where those are fused";
  }
}

TEST(UnitImportance, OfAChangedCopyIsItsOwnFromPlainAutograd) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), kind, kCopiesAfter);
    model::Decoder decoder = test::load_decoder(model.expanded);
    for (const int copy : {2, 5}) change_copy(decoder, copy);
    const UnitValues found = importance_of(model, decoder, probe_batches(), Progress::silent());
    std::size_t compared = 0;
    for (const int copy : {2, 5})
      for (const auto& [name, value] : importance_by_autograd(decoder, copy)) {
        ASSERT_TRUE(found.contains(name)) << name;
        expect_close(found.at(name), value, name);
        ++compared;
      }
    EXPECT_EQ(found.size(), compared);
  }
}

TEST(UnitImportance, BeforeTrainingIsThatOfTheSourcesInTheBaseModel) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), kind, kCopiesAfter);
    const UnitValues found =
        importance_of(model, test::load_decoder(model.expanded), probe_batches(), Progress::silent());
    model::Decoder base = test::load_decoder(model.base);
    std::size_t compared = 0;
    for (const ExpandedLayer& copy : model.expansion.layers)
      for (const auto& [name, value] : importance_by_autograd(base, copy.source)) {
        std::int64_t layer = 0;
        std::string unit;
        ASSERT_TRUE(model::split_layer_parameter_name(name, layer, unit));
        expect_close(found.at(model::layer_parameter_name(copy.index, unit)), value, name);
        ++compared;
      }
    EXPECT_EQ(found.size(), compared);
  }
}

TEST(UnitImportance, TakesTheSourceOnlyForTheCopyThatIsStillTheIdentity) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "qwen3", kCopiesAfter);
  model::Decoder decoder = test::load_decoder(model.expanded);
  change_copy(decoder, 5);
  const UnitValues found = importance_of(model, decoder, probe_batches(), Progress::silent());
  for (const auto& [name, value] : importance_by_autograd(decoder, 5)) expect_close(found.at(name), value, name);
  for (const auto& [name, value] : importance_by_autograd(decoder, 1)) {
    const std::string unit = name.substr(std::string("model.layers.1.").size());
    expect_close(found.at("model.layers.2." + unit), value, name);
  }
  EXPECT_EQ(found.size(), make_units(model.expansion, decoder).size());
}

TEST(UnitImportance, OneElementThatIsNotZeroMakesACopyScoreItself) {
  for (const bool output_of_attention : {true, false}) {
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), "llama_biased_tied", {1});
    model::Decoder decoder = test::load_decoder(model.expanded);
    model::Layer& copy = decoder.weights().layers[2];
    at::Tensor& changed =
        output_of_attention ? copy.attention.body.output.linear.weight : copy.feed_forward.body.output.linear.bias;
    changed = changed.clone();
    changed.view(-1)[7] = 0.01;
    const UnitValues found = importance_of(model, decoder, probe_batches(), Progress::silent());
    const std::string zero = output_of_attention ? "mlp.down_proj.weight" : "self_attn.o_proj.weight";
    EXPECT_EQ(found.at("model.layers.2." + zero), 0) << "its own zeros, not the source's weights";
  }
}

TEST(UnitImportance, AProbeChangesNoParameterNoGradientAndNoGenerator) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "qwen2", kCopiesAfter);
  model::Decoder decoder = test::load_decoder(model.expanded);
  change_copy(decoder, 2);
  std::map<std::string, at::Tensor> grads;
  for (const auto& p : model::named_parameters(decoder.config(), decoder.weights())) {
    if (p.layer != 2 && p.layer != 5) continue;
    *p.tensor = p.tensor->detach().clone().requires_grad_();
    p.tensor->mutable_grad() = at::randn(p.shape);
    grads[p.name] = p.tensor->grad().clone();
  }
  const auto before = test::parameters_of(decoder);
  const at::Tensor generator = at::globalContext().defaultGenerator(at::kCPU).get_state();
  importance_of(model, decoder, probe_batches(), Progress::silent());
  EXPECT_TRUE(test::same_bits(at::globalContext().defaultGenerator(at::kCPU).get_state(), generator));
  for (const auto& [name, value] : test::parameters_of(decoder)) EXPECT_TRUE(test::same_bits(value, before.at(name)));
  for (const auto& p : model::named_parameters(decoder.config(), decoder.weights())) {
    const bool trained = grads.contains(p.name);
    EXPECT_EQ(p.tensor->requires_grad(), trained) << p.name;
    if (trained)
      EXPECT_TRUE(test::same_bits(p.tensor->grad(), grads.at(p.name))) << p.name;
    else
      EXPECT_FALSE(p.tensor->grad().defined()) << p.name;
  }
}

TEST(UnitImportance, WeighsSourcesTheSame) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", kCopiesAfter);
  const model::Decoder decoder = test::load_decoder(model.expanded);
  const model::Batch large = test::random_batch({9, 11, 12}, 1), small = test::random_batch({4}, 2);
  const auto scores = [&](const std::vector<ProbeBatch>& batches) {
    return importance_of(model, decoder, batches, Progress::silent());
  };
  const UnitValues both = scores({{large, 0}, {small, 1}}), a = scores({{large}}), b = scores({{small}});
  for (const auto& [name, value] : both) EXPECT_NEAR(value, 0.5 * (a.at(name) + b.at(name)), 1e-12 + 1e-9 * value);
}

TEST(UnitImportance, OfSeveralUntrainedCopiesIsThatOfTheirSource) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 1});
  const UnitValues found =
      importance_of(model, test::load_decoder(model.expanded), probe_batches(), Progress::silent());
  for (const auto& [name, value] : found) {
    std::int64_t layer = 0;
    std::string unit;
    ASSERT_TRUE(model::split_layer_parameter_name(name, layer, unit));
    EXPECT_EQ(value, found.at(model::layer_parameter_name(layer == 2 ? 3 : 2, unit)));
  }
}

TEST(UnitImportance, RefusesTextWithoutAPredictedTokenAndScoresThatAreNotFinite) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", kCopiesAfter);
  model::Decoder decoder = test::load_decoder(model.expanded);
  const auto refusal = [&](const std::vector<ProbeBatch>& batches) {
    return test::message_of<DataError>([&] { importance_of(model, decoder, batches, Progress::silent()); });
  };
  for (const auto& batches : {std::vector<ProbeBatch>{}, {{test::random_batch({1, 1})}}})
    EXPECT_THAT(refusal(batches), Says("data.general: found no token"));
  at::Tensor& norm = decoder.weights().norm.weight;
  norm = norm.clone();
  norm[3] = std::nan("");
  EXPECT_THAT(
      test::message_of<NonFiniteError>([&] { importance_of(model, decoder, probe_batches(), Progress::silent()); }),
      Says("unit importance of ...not finite"));
}

// Units whose names start with 'n' are norm gains; all have ten elements.
UnitValues weights_of(std::string_view policy, const UnitValues& importance, double floor = 0) {
  std::vector<Unit> units;
  for (const auto& [name, value] : importance)
    units.push_back(
        {.name = name, .parameter = name, .begin = 0, .end = 1, .elements = 10, .is_matrix = name[0] != 'n'});
  return unit_lr_weights(policy, units, importance, floor);
}

TEST(UnitLrWeights, OfTheReferenceFallLinearlyFromTwoToZero) {
  const UnitValues weights =
      weights_of("reference", {{"lowest", 1.0}, {"quarter", 1.5}, {"middle", 2.0}, {"highest", 3.0}});
  EXPECT_EQ(weights, (UnitValues{{"lowest", 2.0}, {"quarter", 1.5}, {"middle", 1.0}, {"highest", 0.0}}));
}

TEST(UnitLrWeights, OfTheReferenceDependOnNeitherScaleNorOffset) {
  const UnitValues scaled = weights_of("reference", {{"a", 1e-9}, {"b", 3e-9}, {"c", 2e-9}});
  EXPECT_NEAR(scaled.at("a"), 2.0, 1e-12);
  EXPECT_NEAR(scaled.at("b"), 0.0, 1e-12);
  EXPECT_NEAR(scaled.at("c"), 1.0, 1e-12);
}

TEST(UnitLrWeights, AreOneWhereTheRangeIsZero) {
  for (const char* policy : {"reference", "normalized"}) {
    EXPECT_EQ(weights_of(policy, {{"a", 0.0}, {"b", 0.0}}, 0.1), (UnitValues{{"a", 1.0}, {"b", 1.0}}));
    EXPECT_EQ(weights_of(policy, {{"only", 0.7}}, 0.1), (UnitValues{{"only", 1.0}}));
  }
}

TEST(UnitLrWeights, OfThePolicyUniformAreOne) {
  EXPECT_EQ(weights_of("uniform", {{"a", 0.0}, {"b", 5.0}}), (UnitValues{{"a", 1.0}, {"b", 1.0}}));
}

TEST(UnitLrWeights, OfThePolicyNormalizedRangeGainsApartHaveAFloorAndMeanOne) {
  // Matrices: floor + 0.8 x with x = 1, 0.5, 0 is 1, 0.6, 0.2, of mean 0.6. Gains: 1 and 0.2, of mean 0.6.
  const UnitValues weights =
      weights_of("normalized", {{"a", 1.0}, {"b", 2.0}, {"c", 3.0}, {"n1", 100.0}, {"n2", 500.0}}, /*floor=*/0.2);
  EXPECT_NEAR(weights.at("a"), 1.0 / 0.6, 1e-12);
  EXPECT_NEAR(weights.at("b"), 1.0, 1e-12);
  EXPECT_NEAR(weights.at("c"), 0.2 / 0.6, 1e-12);
  EXPECT_NEAR(weights.at("n1"), 1.0 / 0.6, 1e-12);
  EXPECT_NEAR(weights.at("n2"), 0.2 / 0.6, 1e-12);
}

TEST(UnitLrWeights, OfThePolicyNormalizedKeepTheMeanOverElements) {
  std::vector<Unit> units = {{.name = "large", .parameter = "large", .elements = 900},
                             {.name = "small", .parameter = "small", .elements = 100}};
  const UnitValues weights = unit_lr_weights("normalized", units, {{"large", 1.0}, {"small", 2.0}}, /*floor=*/0.5);
  EXPECT_NEAR(0.9 * weights.at("large") + 0.1 * weights.at("small"), 1.0, 1e-12);
  EXPECT_NEAR(weights.at("small") / weights.at("large"), 0.5, 1e-12);
}

TEST(Smoothed, IsTheMovingAverageAndStartsWithTheFirst) {
  const UnitValues now = {{"a", 4.0}, {"new", 5.0}};
  EXPECT_EQ(smoothed({}, now, 0.5), now);
  EXPECT_EQ(smoothed({{"a", 2.0}}, now, 0.75), (UnitValues{{"a", 2.5}, {"new", 5.0}}));
  EXPECT_EQ(smoothed({{"a", 2.0}}, now, 0), now);
}

TEST(UnitLrWeights, NeedUnits) { EXPECT_THROW(weights_of("reference", {}), InternalError); }

const std::vector<UnitGranularity> kGranularities = {
    {}, {.by_head = true}, {.ffn_block_size = 5}, {.by_head = true, .ffn_block_size = 1}};

TEST(Units, PartitionEveryTensorAtEveryGranularity) {
  for (const std::string& kind : test::model_kinds()) {
    for (const UnitGranularity& granularity : kGranularities) {
      SCOPED_TRACE(fmt::format("{} {} {}", kind, granularity.by_head, granularity.ffn_block_size));
      const test::TemporaryDirectory dir;
      const auto model = test::write_expanded_model(dir.path(), kind, kCopiesAfter);
      model::Decoder decoder = test::load_decoder(model.expanded);
      // Every element of the copies is marked once.
      std::map<std::string, at::Tensor> marks;
      for (const auto& p : model::named_parameters(decoder.config(), decoder.weights()))
        if (p.layer == 2 || p.layer == 5) marks[p.name] = at::zeros(p.shape);
      for (const Unit& unit : make_units(model.expansion, decoder, granularity)) {
        at::Tensor part = marks.at(unit.parameter).slice(unit.dim, unit.begin, unit.end);
        part += 1;
        EXPECT_EQ(part.numel(), unit.elements) << unit.name;
        EXPECT_EQ(unit.is_matrix, part.dim() > 1) << unit.name;
      }
      for (const auto& [name, mark] : marks) EXPECT_TRUE(mark.eq(1).all().item<bool>()) << name;
    }
  }
}

model::Parameter matrix_of(std::int64_t rows, const model::Slices& slices) {
  model::Parameter p;
  p.name = "fused";
  p.shape = {rows, 3};
  p.slices = slices;
  return p;
}

// No unit reaches from one of the matrices that are stored as one into the next.
TEST(Units, OfAFusedProjectionAreThoseOfItsMatrices) {
  const auto found = [](const model::Parameter& p, const UnitGranularity& granularity) {
    std::vector<std::string> units;
    for (const Unit& u : units_of(p, granularity))
      units.push_back(fmt::format("{} {}-{} of {}", u.name, u.begin, u.end, u.elements));
    return units;
  };
  const auto qkv = matrix_of(8, {model::Axis::kHead, 0, 2, {4, 2, 2}});
  EXPECT_THAT(found(qkv, {.by_head = true}), testing::ElementsAre("fused/head.0 0-2 of 6", "fused/head.1 2-4 of 6",
                                                                  "fused/head.2 4-6 of 6", "fused/head.3 6-8 of 6"));
  const auto gate_up = matrix_of(14, {model::Axis::kNeuron, 0, 1, {7, 7}});
  EXPECT_THAT(found(gate_up, {.ffn_block_size = 5}),
              testing::ElementsAre("fused/block.0 0-5 of 15", "fused/block.1 5-7 of 6", "fused/block.2 7-12 of 15",
                                   "fused/block.3 12-14 of 6"));
  EXPECT_THAT(found(gate_up, {.by_head = true}), testing::ElementsAre("fused 0-14 of 42"));
}

TEST(Units, AreTheHeadsAndTheBlocksOfNeurons) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", kCopiesAfter);
  const model::Decoder decoder = test::load_decoder(model.expanded);
  const model::ModelConfig& c = decoder.config();
  std::map<std::string, Unit> units;
  for (const Unit& unit : make_units(model.expansion, decoder, {.by_head = true, .ffn_block_size = 7}))
    units[unit.name] = unit;
  const auto at = [&](const std::string& name) { return units.at("model.layers.2." + name); };
  EXPECT_EQ(at("self_attn.q_proj.weight/head.1").begin, c.head_dim);
  EXPECT_EQ(at("self_attn.q_proj.weight/head.1").dim, 0);
  EXPECT_EQ(at("self_attn.o_proj.weight/head.1").end, 2 * c.head_dim);
  EXPECT_EQ(at("self_attn.o_proj.weight/head.1").dim, 1);
  EXPECT_EQ(at("mlp.up_proj.weight/block.1").begin, 7);
  EXPECT_EQ(at("mlp.down_proj.weight/block.0").dim, 1);
  EXPECT_EQ(at("input_layernorm.weight").elements, c.hidden_size);
  EXPECT_FALSE(units.contains(fmt::format("model.layers.2.self_attn.k_proj.weight/head.{}", c.num_key_value_heads)));
  EXPECT_THAT(test::message_of<ConfigError>([&] { make_units(model.expansion, decoder, {.ffn_block_size = 100000}); }),
              HasSubstr("unit_lr.ffn_block_size: found 100000; expected at most"));
}

TEST(UnitImportance, OfPartsAveragesToThatOfTheirTensor) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "qwen3", kCopiesAfter);
  const model::Decoder decoder = test::load_decoder(model.expanded);
  const UnitValues whole = importance_of(model, decoder, probe_batches(), Progress::silent());
  for (const UnitGranularity& granularity : kGranularities) {
    const auto units = make_units(model.expansion, decoder, granularity);
    const UnitValues parts = unit_importance(model.expansion, units, decoder, probe_batches(), Progress::silent());
    std::map<std::string, double> sums, elements;
    for (const Unit& unit : units) {
      sums[unit.parameter] += parts.at(unit.name) * static_cast<double>(unit.elements);
      elements[unit.parameter] += static_cast<double>(unit.elements);
    }
    for (const auto& [name, value] : whole) EXPECT_NEAR(sums.at(name) / elements.at(name), value, 1e-9 * value) << name;
  }
}

TEST(UnitLrPolicies, AreATableWhoseFirstRowIsTheDefault) {
  EXPECT_THAT(unit_lr_policies(), testing::IsSupersetOf({"reference", kUniformRates, "normalized"}));
  EXPECT_EQ(UnitLrOptions().policy, unit_lr_policies().front());
  EXPECT_TRUE(uses_unit_importance("reference"));
  EXPECT_FALSE(uses_unit_importance(kUniformRates));
  EXPECT_EQ(default_ema("reference"), 0);
  EXPECT_EQ(default_ema("normalized"), 0.5);
  EXPECT_THAT(default_ema_text(), testing::HasSubstr("0.5 with policy: normalized"));
  for (const std::string& policy : unit_lr_policies())
    EXPECT_THAT(unit_lr_policy_meanings("\n"), testing::ContainsRegex("(^|\n)" + policy + ": .")) << policy;
  EXPECT_THROW(unit_lr_weights("none", {{.name = "a", .parameter = "a"}}, {{"a", 1.0}}), InternalError);
}

}  // namespace
}  // namespace adept::method
