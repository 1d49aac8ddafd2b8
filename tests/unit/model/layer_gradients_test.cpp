#include "adept/model/layer_gradients.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <map>

#include "adept/core/error.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"

namespace adept::model {
namespace {

struct Gradients {
  double loss = 0;
  std::map<std::string, at::Tensor> by_name;
};

// One graph over the whole model.
Gradients plain_autograd(const std::string& kind, at::ScalarType dtype, const Batch& batch) {
  Decoder decoder = test::decoder_of_kind(kind, dtype);
  const auto table = named_parameters(decoder.config(), decoder.weights());
  for (const auto& p : table)
    if (p.layer >= 0) p.tensor->requires_grad_();
  const at::Tensor loss =
      decoder.loss_sum(decoder.forward(batch.input_ids, {}), batch.targets) / static_cast<double>(batch.num_targets);
  loss.backward();
  Gradients result{.loss = loss.item<double>(), .by_name = {}};
  for (const auto& p : table)
    if (p.layer >= 0) result.by_name[p.name] = p.tensor->grad();
  return result;
}

TEST(LayerGradients, AreThoseOfOneGraphOverTheWholeModel) {
  const Batch batch = test::random_batch({9, 4, 7});
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind + " " + at::toString(dtype));
      const Gradients expected = plain_autograd(kind, dtype, batch);
      const std::vector<int> layers = {0, 1, 2, 3};
      std::size_t seen = 0;
      const double loss =
          visit_layer_gradients(test::decoder_of_kind(kind, dtype), batch, layers, [&](const LayerGradients& found) {
            const auto& [layer, parameters, gradients, input, output, output_gradient] = found;
            ASSERT_EQ(parameters.size(), gradients.size());
            EXPECT_EQ(input.sizes(), output.sizes());
            EXPECT_EQ(output_gradient.sizes(), output.sizes());
            for (std::size_t i = 0; i < parameters.size(); ++i, ++seen) {
              // fp64 sums differ only by the order in which a residual's two gradients are added.
              const double limit = dtype == at::kDouble ? 1e-12 : test::tolerance(dtype).gradients;
              EXPECT_TRUE(test::is_close(gradients[i], expected.by_name.at(parameters[i].name), limit))
                  << parameters[i].name;
            }
          });
      EXPECT_EQ(seen, expected.by_name.size());
      EXPECT_NEAR(loss, expected.loss, 1e-12 + (dtype == at::kDouble ? 0 : 1e-6) * expected.loss);
    }
  }
}

TEST(LayerGradients, OfMatricesInANarrowerTypeAreThoseOfTheWideOnesBitForBit) {
  const Batch batch = test::random_batch({9, 4, 7});
  const std::vector<int> layers = {0, 2, 3};
  for (const std::string& kind : test::model_kinds()) {
    Decoder wide = test::decoder_of_kind(kind, at::kFloat), narrow = test::decoder_of_kind(kind, at::kFloat);
    const auto kept = named_parameters(narrow.config(), narrow.weights()),
               same = named_parameters(wide.config(), wide.weights());
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (kept[i].shape.size() != 2) continue;
      *kept[i].tensor = kept[i].tensor->to(at::kBFloat16);
      *same[i].tensor = kept[i].tensor->to(at::kFloat);
    }
    for (Decoder* decoder : {&narrow, &wide})
      if (decoder->config().tie_word_embeddings) decoder->weights().lm_head = decoder->weights().embed_tokens;
    std::map<std::string, at::Tensor> expected;
    const double loss = visit_layer_gradients(wide, batch, layers, [&](const LayerGradients& g) {
      for (std::size_t i = 0; i < g.parameters.size(); ++i) expected[g.parameters[i].name] = g.gradients[i];
    });
    EXPECT_EQ(visit_layer_gradients(narrow, batch, layers,
                                    [&](const LayerGradients& g) {
                                      for (std::size_t i = 0; i < g.parameters.size(); ++i)
                                        EXPECT_TRUE(test::same_bits(g.gradients[i], expected.at(g.parameters[i].name)))
                                            << g.parameters[i].name;
                                    }),
              loss);
  }
}

TEST(LayerGradients, OfASubsetAreThoseOfAllLayersBitForBitAndComeHighestFirst) {
  const Decoder decoder = test::decoder_of_kind("qwen3", at::kFloat);
  const Batch batch = test::random_batch({9, 4, 7});
  std::map<std::string, at::Tensor> all;
  const std::vector<int> every = {0, 1, 2, 3};
  visit_layer_gradients(decoder, batch, every, [&](const LayerGradients& g) {
    for (std::size_t i = 0; i < g.parameters.size(); ++i) all[g.parameters[i].name] = g.gradients[i];
  });
  for (const std::vector<int>& chosen : {std::vector<int>{1, 3}, {0}, {3}, {0, 2}}) {
    std::vector<int> order;
    visit_layer_gradients(decoder, batch, chosen, [&](const LayerGradients& g) {
      order.push_back(g.layer);
      for (std::size_t i = 0; i < g.parameters.size(); ++i) {
        EXPECT_EQ(g.parameters[i].layer, g.layer);
        EXPECT_TRUE(test::same_bits(g.gradients[i], all.at(g.parameters[i].name))) << g.parameters[i].name;
      }
    });
    EXPECT_EQ(order, std::vector<int>(chosen.rbegin(), chosen.rend()));
  }
}

TEST(LayerGradients, RefuseLayersOutOfOrderAndBatchesWithoutTargets) {
  const Decoder decoder = test::decoder_of_kind("llama", at::kFloat);
  const auto visit = [&](const Batch& batch, const std::vector<int>& layers) {
    visit_layer_gradients(decoder, batch, layers, [](const LayerGradients&) {});
  };
  EXPECT_THROW(visit(test::random_batch({5}), {}), InternalError);
  EXPECT_THROW(visit(test::random_batch({5}), {2, 1}), InternalError);
  EXPECT_THROW(visit(test::random_batch({1}), {1}), InternalError);
}

}  // namespace
}  // namespace adept::model
