#include "adept/method/units.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "adept/core/error.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"

namespace adept::method {
namespace {

using ::testing::HasSubstr;

const std::vector<int> kCopiesAfter = {1, 3};

std::vector<ProbeBatch> probe_batches() {
  return {{test::random_batch({9, 4, 7}, 1)}, {test::random_batch({13, 2}, 2)}, {test::random_batch({1}, 3)}};
}

// Gives a copy outputs of its own, as training does.
void change_copy(model::Decoder& decoder, int index) {
  at::manual_seed(static_cast<std::uint64_t>(index));
  for (const auto& p : model::layer_parameters(decoder.config(), decoder.weights(), index))
    *p.tensor = *p.tensor + at::randn(p.shape) * 0.05;
}

// I of every parameter of a layer: plain autograd over the whole model, everything else in fp64.
UnitValues importance_by_autograd(model::Decoder& decoder, int layer) {
  const auto parameters = model::layer_parameters(decoder.config(), decoder.weights(), layer);
  for (const auto& p : parameters) *p.tensor = p.tensor->detach().clone().requires_grad_();
  UnitValues totals;
  double tokens = 0;
  for (const auto& [batch, source] : probe_batches()) {
    if (batch.num_targets == 0) continue;
    const auto n = static_cast<double>(batch.num_targets);
    for (const auto& p : parameters) p.tensor->mutable_grad().reset();
    (decoder.loss_sum(decoder.forward(batch.input_ids), batch.targets) / n).backward();
    for (const auto& p : parameters)
      totals[p.name] +=
          n * (p.tensor->detach().to(at::kDouble) * p.tensor->grad().to(at::kDouble)).abs().mean().item<double>();
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
    const auto units = unit_names(model.expansion, decoder);
    const std::set<std::string> unique(units.begin(), units.end());
    EXPECT_EQ(unique.size(), units.size()) << "a unit twice";
    std::set<std::string> expected;
    for (const auto& p : model::named_parameters(decoder.config(), decoder.weights()))
      if (p.layer == 2 || p.layer == 5) expected.insert(p.name);
    EXPECT_EQ(unique, expected);
    EXPECT_GE(units.size(), 2U * 9U);
  }
}

TEST(UnitImportance, OfAChangedCopyIsItsOwnFromPlainAutograd) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), kind, kCopiesAfter);
    model::Decoder decoder = test::load_decoder(model.expanded);
    for (const int copy : {2, 5}) change_copy(decoder, copy);
    const UnitValues found = unit_importance(model.expansion, decoder, probe_batches(), Progress::silent());
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
        unit_importance(model.expansion, test::load_decoder(model.expanded), probe_batches(), Progress::silent());
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
  const UnitValues found = unit_importance(model.expansion, decoder, probe_batches(), Progress::silent());
  for (const auto& [name, value] : importance_by_autograd(decoder, 5)) expect_close(found.at(name), value, name);
  for (const auto& [name, value] : importance_by_autograd(decoder, 1)) {
    const std::string unit = name.substr(std::string("model.layers.1.").size());
    expect_close(found.at("model.layers.2." + unit), value, name);
  }
  EXPECT_EQ(found.size(), unit_names(model.expansion, decoder).size());
}

TEST(UnitImportance, OneElementThatIsNotZeroMakesACopyScoreItself) {
  for (const bool output_of_attention : {true, false}) {
    const test::TemporaryDirectory dir;
    const auto model = test::write_expanded_model(dir.path(), "llama_biased_tied", {1});
    model::Decoder decoder = test::load_decoder(model.expanded);
    model::LayerWeights& copy = decoder.weights().layers[2];
    at::Tensor& changed = output_of_attention ? copy.o_proj.weight : copy.down_proj.bias;
    changed = changed.clone();
    changed.view(-1)[7] = 0.01;
    const UnitValues found = unit_importance(model.expansion, decoder, probe_batches(), Progress::silent());
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
  unit_importance(model.expansion, decoder, probe_batches(), Progress::silent());
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
    return unit_importance(model.expansion, decoder, batches, Progress::silent());
  };
  const UnitValues both = scores({{large, 0}, {small, 1}}), a = scores({{large}}), b = scores({{small}});
  for (const auto& [name, value] : both) EXPECT_NEAR(value, 0.5 * (a.at(name) + b.at(name)), 1e-12 + 1e-9 * value);
}

TEST(UnitImportance, OfSeveralUntrainedCopiesIsThatOfTheirSource) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 1});
  const UnitValues found =
      unit_importance(model.expansion, test::load_decoder(model.expanded), probe_batches(), Progress::silent());
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
    return test::message_of<DataError>([&] { unit_importance(model.expansion, decoder, batches, Progress::silent()); });
  };
  for (const auto& batches : {std::vector<ProbeBatch>{}, {{test::random_batch({1, 1})}}})
    EXPECT_THAT(refusal(batches), HasSubstr("data.general: found no token to predict; expected documents of at least"));
  at::Tensor& norm = decoder.weights().norm;
  norm = norm.clone();
  norm[3] = std::nan("");
  EXPECT_THAT(test::message_of<NonFiniteError>(
                  [&] { unit_importance(model.expansion, decoder, probe_batches(), Progress::silent()); }),
              HasSubstr("is not finite; look at the general text and the model's weights"));
}

TEST(UnitLrWeights, OfTheReferenceFallLinearlyFromTwoToZero) {
  const UnitValues weights =
      unit_lr_weights(UnitLrPolicy::kReference, {{"lowest", 1.0}, {"quarter", 1.5}, {"middle", 2.0}, {"highest", 3.0}});
  EXPECT_EQ(weights, (UnitValues{{"lowest", 2.0}, {"quarter", 1.5}, {"middle", 1.0}, {"highest", 0.0}}));
}

TEST(UnitLrWeights, OfTheReferenceDependOnNeitherScaleNorOffset) {
  const UnitValues scaled = unit_lr_weights(UnitLrPolicy::kReference, {{"a", 1e-9}, {"b", 3e-9}, {"c", 2e-9}});
  EXPECT_NEAR(scaled.at("a"), 2.0, 1e-12);
  EXPECT_NEAR(scaled.at("b"), 0.0, 1e-12);
  EXPECT_NEAR(scaled.at("c"), 1.0, 1e-12);
}

TEST(UnitLrWeights, AreOneWhereTheRangeIsZero) {
  EXPECT_EQ(unit_lr_weights(UnitLrPolicy::kReference, {{"a", 0.0}, {"b", 0.0}}), (UnitValues{{"a", 1.0}, {"b", 1.0}}));
  EXPECT_EQ(unit_lr_weights(UnitLrPolicy::kReference, {{"only", 0.7}}), (UnitValues{{"only", 1.0}}));
}

TEST(UnitLrWeights, OfThePolicyUniformAreOne) {
  EXPECT_EQ(unit_lr_weights(UnitLrPolicy::kUniform, {{"a", 0.0}, {"b", 5.0}}), (UnitValues{{"a", 1.0}, {"b", 1.0}}));
}

TEST(UnitLrWeights, NeedUnits) { EXPECT_THROW(unit_lr_weights(UnitLrPolicy::kReference, {}), InternalError); }

TEST(UnitLrPolicy, HasTheNamesOfTheConfiguration) {
  EXPECT_EQ(to_string(UnitLrPolicy::kReference), "reference");
  EXPECT_EQ(to_string(UnitLrPolicy::kUniform), "uniform");
}

}  // namespace
}  // namespace adept::method
