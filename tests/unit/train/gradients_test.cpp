// Gradients of a global batch, and what a step keeps in memory for them.
#include <ATen/TensorOperators.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include <memory>
#include <string_view>
#include <unordered_set>

#include "adept/core/error.h"
#include "adept/method/unit_importance.h"
#include "adept/nn/allocator.h"
#include "tests/support/tolerance.h"
#include "tests/unit/train/ready_model.h"

namespace adept::train {
namespace {

TEST(ActivationCheckpointing, ChangesNoBitAndKeepsLess) {
  nn::use_caching_allocator();  // it counts
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      ReadyModel s(kind, dtype);
      s.train(3);  // so that every gradient is there
      const std::vector<model::Batch> batches = {test::random_batch({19, 14, 17}), test::random_batch({13}, 2)};
      const StepResult plain = compute_gradients(s.decoder, s.trainable, batches);
      const auto expected = s.gradients();
      std::int64_t kept = plain.activation_bytes;
      for (const auto checkpointing : {ActivationCheckpointing::kSelective, ActivationCheckpointing::kFull}) {
        const StepResult result = compute_gradients(s.decoder, s.trainable, batches, checkpointing);
        EXPECT_EQ(result.loss, plain.loss);
        for (const auto& [name, grad] : s.gradients()) EXPECT_TRUE(test::same_bits(grad, expected.at(name))) << name;
        EXPECT_LT(result.activation_bytes, kept);
        kept = result.activation_bytes;
      }
    }
  }
}

// Projections of the forward pass, made again in the backward pass or not.
std::int64_t count_projections(ReadyModel& s, ActivationCheckpointing checkpointing) {
  static thread_local std::int64_t count;
  count = 0;
  const auto handle = at::addThreadLocalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        count += std::string_view(function.name()) == "aten::linear" ? 1 : 0;
        return nullptr;
      }));
  compute_gradients(s.decoder, s.trainable, std::vector{test::random_batch({19, 14, 17})}, checkpointing);
  at::removeCallback(handle);
  return count;
}

TEST(ActivationCheckpointing, ComputesAFrozenLastProjectionOnce) {
  ReadyModel s("llama");
  const std::int64_t prefix = s.trainable.lowest_layer(), layers = s.decoder.num_layers() - prefix;
  const auto copies = static_cast<std::int64_t>(kAfter.size());
  EXPECT_GT(layers, copies) << "no frozen layer would be computed again";
  const std::int64_t once = 7 * (prefix + layers);
  EXPECT_EQ(count_projections(s, ActivationCheckpointing::kNone), once);
  EXPECT_EQ(count_projections(s, ActivationCheckpointing::kSelective), once + 2 * layers + copies);
  // Nothing flows back from the lowest layer's input: its attention is kept.
  EXPECT_EQ(count_projections(s, ActivationCheckpointing::kFull), once + 6 * layers - 4 + copies);
}

// Of each layer: what its norms read, queries, keys, values, gate and up projection, a number or two of each row. Of
// the copies, the weights of whose projections train, the mixture of values as well, and nothing more.
TEST(StepMemory, KeepsNoInputsOfProjections) {
  nn::use_caching_allocator();  // it counts
  ReadyModel s("llama");
  const std::vector<model::Batch> batches = {test::random_batch({19, 14, 17})};
  compute_gradients(s.decoder, s.trainable, batches);  // tables and workspaces are there from now on
  const StepResult result = compute_gradients(s.decoder, s.trainable, batches);
  const model::ModelConfig& c = s.decoder.config();
  const std::int64_t heads = c.num_attention_heads + 2 * c.num_key_value_heads;
  const std::int64_t of_layer =
      2 * c.hidden_size + heads * c.head_dim + 2 * c.intermediate_size + 2 + c.num_attention_heads;
  const std::int64_t layers = c.num_hidden_layers - s.trainable.lowest_layer();
  const auto copies = static_cast<std::int64_t>(kAfter.size());
  const std::int64_t of_layers = layers * of_layer + copies * c.num_attention_heads * c.head_dim;
  const std::int64_t head_and_input = 3 * c.hidden_size;
  EXPECT_LE(result.activation_bytes, 4 * batches[0].num_positions() * (of_layers + head_and_input));
  EXPECT_GE(result.activation_bytes, 4 * batches[0].num_positions() * of_layers);
}

TEST(StepMemory, DoesNotGrowWithTheDepthBelowTheLowestCopy) {
  nn::use_caching_allocator();  // it counts
  const std::vector<model::Batch> batches = {test::random_batch({19, 14, 17})};
  std::vector<StepResult> results;
  std::vector<std::int64_t> peaks;
  for (const int num_layers : {2, 9}) {
    ReadyModel s("llama", at::kFloat, {num_layers - 1}, num_layers);
    compute_gradients(s.decoder, s.trainable, batches);  // tables and workspaces are there from now on
    nn::reset_peak_tensor_memory();
    const std::int64_t before = nn::tensor_memory().in_use;
    results.push_back(compute_gradients(s.decoder, s.trainable, batches));
    peaks.push_back(nn::tensor_memory().peak - before);
  }
  EXPECT_GT(results[0].activation_bytes, 0);
  EXPECT_EQ(results[1].activation_bytes, results[0].activation_bytes);
  EXPECT_EQ(peaks[1], peaks[0]);
}

TEST(Gradients, BeforeTrainingAreExactlyZeroButInTheOutputsOfTheCopies) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      ReadyModel s(kind, dtype);
      const std::vector<model::Batch> batches = {test::random_batch({9, 4, 7}), test::random_batch({13}, 2)};
      compute_gradients(s.decoder, s.trainable, batches);
      const std::set<std::string> outputs = residual_outputs_of(s.decoder);
      for (const auto& [name, grad] : s.gradients()) {
        const bool zero = !grad.ne(0).any().item<bool>();
        EXPECT_EQ(zero, !outputs.contains(name)) << name;
      }
    }
  }
}

TEST(Gradients, OfOneBatchEqualThoseOfItsRowsOneByOneWhateverTheirLengths) {
  const auto rows = test::random_sequences({9, 2, 13, 5}, 1);
  std::vector<model::Batch> one_by_one;
  for (const auto& row : rows) one_by_one.push_back(model::to_batch(data::make_batch(std::span(&row, 1)), at::kCPU));
  const std::vector<model::Batch> together = {model::to_batch(data::make_batch(rows), at::kCPU)};
  for (const std::string kind : {"llama_biased_tied", "qwen3"}) {
    SCOPED_TRACE(kind);
    ReadyModel s(kind);
    s.train(3);  // so that every gradient is there
    const StepResult whole = compute_gradients(s.decoder, s.trainable, together);
    const auto expected = s.gradients();
    const StepResult parts = compute_gradients(s.decoder, s.trainable, one_by_one);
    EXPECT_EQ(whole.num_targets, 8 + 1 + 12 + 4);
    EXPECT_EQ(parts.num_targets, whole.num_targets);
    const auto tolerance = test::tolerance(at::kFloat);
    EXPECT_NEAR(parts.loss, whole.loss, tolerance.values * whole.loss);
    EXPECT_NEAR(parts.grad_norm, whole.grad_norm, tolerance.gradients * whole.grad_norm);
    for (const auto& [name, grad] : s.gradients())
      EXPECT_TRUE(test::is_close(grad, expected.at(name), tolerance.gradients)) << name;
    double mean_of_means = 0;
    for (const auto& row : one_by_one) mean_of_means += compute_gradients(s.decoder, s.trainable, {&row, 1}).loss / 4;
    EXPECT_GT(std::abs(mean_of_means - whole.loss), 100 * tolerance.values * whole.loss) << "lengths do not matter";
  }
}

TEST(Gradients, StartFromZeroInEveryStep) {
  ReadyModel s("llama");
  s.train(2);
  const std::vector<model::Batch> batches = {test::random_batch({9, 4})};
  compute_gradients(s.decoder, s.trainable, batches);
  const auto first = s.gradients();
  compute_gradients(s.decoder, s.trainable, batches);
  for (const auto& [name, grad] : s.gradients()) EXPECT_TRUE(test::same_bits(grad, first.at(name))) << name;
}

TEST(Gradients, AreNotMovedByAProbeBetweenSteps) {
  ReadyModel s("llama");
  s.train(2);
  const std::vector<model::Batch> batches = {test::random_batch({9, 4})};
  compute_gradients(s.decoder, s.trainable, batches);
  const auto before = s.gradients();
  method::unit_importance(s.model.expansion, method::make_units(s.model.expansion, s.decoder), s.decoder,
                          {{test::random_batch({13, 6}, 9)}}, Progress::silent());
  for (const auto& [name, grad] : s.gradients()) EXPECT_TRUE(test::same_bits(grad, before.at(name))) << name;
}

TEST(Gradients, InBf16AreThoseOfEachMicroBatchSummedInFp32) {
  ReadyModel s("llama", at::kBFloat16);
  const std::vector<model::Batch> batches = {test::random_batch({9, 4}), test::random_batch({13, 7}, 2),
                                             test::random_batch({5, 11}, 3)};
  const StepResult result = compute_gradients(s.decoder, s.trainable, batches);
  std::map<std::string, at::Tensor> expected;
  for (const model::Batch& batch : batches) {
    std::vector<std::string> names;
    std::vector<at::Tensor> leaves;
    for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights())) {
      if (!p.tensor->requires_grad()) continue;
      EXPECT_EQ(p.tensor->grad().scalar_type(), at::kFloat) << p.name;
      names.push_back(p.name);
      leaves.push_back(*p.tensor);
    }
    const at::Tensor loss = s.decoder.loss_sum(s.decoder.forward(batch.input_ids, {}), batch.targets) /
                            static_cast<double>(result.num_targets);
    const auto gradients = torch::autograd::grad({loss}, leaves);
    for (std::size_t i = 0; i < names.size(); ++i) {
      const at::Tensor wide = gradients[i].to(at::kFloat);
      EXPECT_TRUE(wide.equal(wide.to(at::kBFloat16).to(at::kFloat))) << names[i] << " is a product in bf16";
      expected[names[i]] = expected.contains(names[i]) ? expected[names[i]] + wide : wide;
    }
  }
  std::int64_t beyond_bf16 = 0;
  for (const auto& [name, grad] : s.gradients()) {
    EXPECT_TRUE(grad.equal(expected.at(name))) << name;
    beyond_bf16 += grad.ne(grad.to(at::kBFloat16).to(at::kFloat)).sum().item<std::int64_t>();
  }
  EXPECT_GT(beyond_bf16, 0) << "the sums fit into bf16, so nothing was shown";
}

TEST(Gradients, ReachNoFrozenTensor) {
  ReadyModel s("qwen2");
  s.train(2);
  for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights()))
    if (p.layer != 2 && p.layer != 5) {
      EXPECT_FALSE(p.tensor->grad().defined()) << p.name;
    }
}

TEST(Gradients, TakeMemoryFromTheBackwardPassToTheEndOfTheStep) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    ReadyModel s("llama", dtype);
    const auto expect_none = [&] {
      for (const at::Tensor& grad : s.trainable.gradients()) EXPECT_FALSE(grad.defined());
      for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights()))
        EXPECT_FALSE(p.tensor->grad().defined()) << p.name;
    };
    expect_none();
    const std::vector<model::Batch> batches = {test::random_batch({9, 4}), test::random_batch({13}, 2)};
    const StepResult result = compute_gradients(s.decoder, s.trainable, batches);
    EXPECT_EQ(result.gradient_bytes, 4 * s.trainable.num_parameters());
    for (std::size_t i = 0; i < s.trainable.parameters().size(); ++i) {
      EXPECT_EQ(s.trainable.gradients()[i].scalar_type(), at::kFloat);
      EXPECT_EQ(s.trainable.gradients()[i].sizes(), s.trainable.parameters()[i].master.sizes());
    }
    s.trainable.drop_gradients();
    expect_none();
    s.train(1);
    expect_none();
  }
}

TEST(Gradients, OfAGlobalBatchWithoutTargetsAreABug) {
  ReadyModel s("llama");
  const std::vector<model::Batch> batches = {test::random_batch({1, 1})};
  EXPECT_THROW(compute_gradients(s.decoder, s.trainable, batches), InternalError);
}

// Nodes of the graph that a backward pass of the loss would visit.
std::size_t graph_size(const model::Decoder& decoder) {
  const model::Batch batch = test::random_batch({9, 4});
  const at::Tensor loss = decoder.loss_sum(decoder.forward(batch.input_ids, {}), batch.targets);
  std::unordered_set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> stack = {loss.grad_fn().get()};
  while (!stack.empty()) {
    torch::autograd::Node* node = stack.back();
    stack.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    for (const auto& edge : node->next_edges()) stack.push_back(edge.function.get());
  }
  return seen.size();
}

TEST(Graph, OfCopiesAtTheTopDoesNotGrowWithTheLayersBelow) {
  const ReadyModel shallow("llama", at::kFloat, {1, 2}, 3), deep("llama", at::kFloat, {5, 6}, 7);
  const ReadyModel low("llama", at::kFloat, {0, 6}, 7);
  EXPECT_EQ(deep.trainable.lowest_layer(), 6);
  const at::Tensor entering = deep.decoder.layers(deep.decoder.embed(test::random_batch({9}).input_ids), 0, 6, {});
  EXPECT_FALSE(entering.requires_grad());
  EXPECT_FALSE(entering.grad_fn());
  EXPECT_EQ(graph_size(deep.decoder), graph_size(shallow.decoder));
  EXPECT_GT(graph_size(low.decoder), graph_size(deep.decoder));
}

}  // namespace
}  // namespace adept::train
