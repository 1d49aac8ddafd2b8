// What is trained and what is not, gradients of a global batch, and one update: the oracles of the method.
#include "adept/train/step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include <cmath>
#include <memory>
#include <set>
#include <string_view>
#include <unordered_set>

#include "adept/core/error.h"
#include "adept/io/weight_files.h"
#include "adept/method/unit_importance.h"
#include "adept/method/unit_rates.h"
#include "adept/model/torch_tensors.h"
#include "adept/nn/allocator.h"
#include "adept/train/memory.h"
#include "adept/train/methods.h"
#include "adept/train/trainable.h"
#include "tests/support/forward_without.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"
#include "tests/support/whole_rates.h"

namespace adept::train {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::vector<int> kAfter = {1, 3};

// An expanded model that is ready to train.
struct ReadyModel {
  test::TemporaryDirectory dir;
  test::ExpandedModel model;
  io::WeightFiles files;
  model::Decoder decoder;
  Trainable trainable;

  explicit ReadyModel(const std::string& kind, at::ScalarType dtype = at::kFloat,
                      const std::vector<int>& after = kAfter, int num_layers = 4, DType stored = DType::kF32,
                      bool widen_matrices = false)
      : model(test::write_expanded_model(dir.path(), kind, after, stored, num_layers)),
        files(io::WeightFiles::open(model.expanded)),
        decoder(test::load_decoder(model.expanded, dtype, widen_matrices)),
        trainable(decoder, expanded_tensors(decoder, model.expansion, files)) {}

  optim::ParameterRates rates(double rate) const {
    std::map<std::string, double> rates;
    for (const optim::Parameter& p : trainable.parameters()) rates[p.name] = rate;
    return test::whole_rates(trainable.parameters(), rates);
  }
  std::map<std::string, at::Tensor> masters() const {
    std::map<std::string, at::Tensor> copies;
    for (const optim::Parameter& p : trainable.parameters()) copies[p.name] = p.master.clone();
    return copies;
  }
  std::map<std::string, at::Tensor> gradients() const {
    std::map<std::string, at::Tensor> copies;
    for (std::size_t i = 0; i < trainable.parameters().size(); ++i)
      copies[trainable.parameters()[i].name] = trainable.gradients()[i].clone();
    return copies;
  }
  // A few steps that move the copies away from the identity.
  void train(int steps, double rate = 1e-2) {
    optim::AdamW optimizer(trainable.parameters(), {});
    for (int i = 0; i < steps; ++i) {
      const std::vector<model::Batch> batches = {test::random_batch({9, 4, 7}, static_cast<std::uint64_t>(i) + 1)};
      const StepResult result = train_step(decoder, trainable, optimizer, batches, rates(rate), 1.0);
      ASSERT_TRUE(result.finite);
    }
  }
};

std::set<std::string> residual_outputs_of(const model::Decoder& decoder) {
  model::Weights weights = decoder.weights();
  std::set<std::string> names;
  for (const auto& p : model::named_parameters(decoder.config(), weights))
    if (p.role == model::Role::kResidualOutput) names.insert(p.name);
  return names;
}

TEST(Trainable, HoldsExactlyTheUnitsAndNothingElseAsksForAGradient) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      ReadyModel s(kind, dtype);
      const auto units = test::names_of(method::make_units(s.model.expansion, s.decoder));
      std::set<std::string> found;
      std::int64_t elements = 0;
      for (const optim::Parameter& p : s.trainable.parameters()) {
        EXPECT_TRUE(found.insert(p.name).second) << p.name;
        EXPECT_EQ(p.master.scalar_type(), at::kFloat);
        elements += p.master.numel();
      }
      EXPECT_EQ(found, std::set<std::string>(units.begin(), units.end()));
      EXPECT_EQ(s.trainable.num_parameters(), elements);
      EXPECT_EQ(s.trainable.lowest_layer(), 2);
      for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights())) {
        EXPECT_EQ(p.tensor->requires_grad(), found.contains(p.name)) << p.name;
        const bool is_master = found.contains(p.name) && p.tensor->dim() == 2;
        EXPECT_EQ(p.tensor->scalar_type(), is_master ? at::kFloat : dtype) << p.name;
      }
    }
  }
}

TEST(Trainable, MastersAreTheFilesValuesInFullPrecisionEvenIfTheModelComputesInBf16) {
  ReadyModel s("qwen3", at::kBFloat16);
  std::int64_t rounded = 0;
  for (const optim::Parameter& p : s.trainable.parameters()) {
    const at::Tensor stored = model::as_tensor(s.files.at(p.name), s.files.owner(p.name));
    EXPECT_TRUE(test::same_bits(p.master, stored)) << p.name;
    rounded += p.master.ne(p.master.to(at::kBFloat16).to(at::kFloat)).sum().item<std::int64_t>();
  }
  EXPECT_GT(rounded, 0) << "the values would survive bf16, so nothing was shown";
}

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

// Plain AdamW on all units at once, matrices with and vectors without weight decay.
struct PlainAdamW {
  std::vector<at::Tensor> values[2], first[2], second[2];
  std::vector<std::string> names[2];

  explicit PlainAdamW(const Trainable& trainable) {
    for (const optim::Parameter& p : trainable.parameters()) {
      const int group = p.master.dim() >= 2 ? 0 : 1;
      names[group].push_back(p.name);
      values[group].push_back(p.master.clone());
      first[group].push_back(at::zeros_like(p.master));
      second[group].push_back(at::zeros_like(p.master));
    }
  }
  void step(const std::map<std::string, at::Tensor>& gradients, int update, double rate, double decay,
            double grad_factor) {
    for (int group = 0; group < 2; ++group) {
      std::vector<at::Tensor> grads, counts;
      for (const std::string& name : names[group]) {
        grads.push_back(gradients.at(name).clone());
        counts.push_back(at::full({}, static_cast<double>(update), at::kFloat));
      }
      std::optional<at::Tensor> scale;
      if (grad_factor != 1.0) scale = at::full({}, 1.0 / grad_factor, at::kFloat);
      at::_fused_adamw_(values[group], grads, first[group], second[group], {}, counts, rate, 0.9, 0.95,
                        group == 0 ? decay : 0.0, 1e-8, false, false, scale);
    }
  }
};

TEST(TrainStep, WithAllUnitWeightsOneIsPlainAdamWOnTheCopiesBitForBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const double max_grad_norm : {0.0, 0.05}) {
      SCOPED_TRACE(max_grad_norm);
      ReadyModel s("qwen3", dtype), reference("qwen3", dtype);
      optim::AdamW optimizer(s.trainable.parameters(), {.weight_decay = 0.1});
      PlainAdamW plain(reference.trainable);
      method::UnitValues equal;
      const auto units = method::make_units(s.model.expansion, s.decoder);
      for (const method::Unit& unit : units) equal[unit.name] = 0.5;
      const auto weights = method::unit_lr_weights("reference", units, equal);
      for (int update = 1; update <= 4; ++update) {
        const double rate = 1e-2 / update;
        std::map<std::string, double> rates;
        for (const auto& [name, weight] : weights) rates[name] = rate * weight;
        const std::vector<model::Batch> batches = {test::random_batch({9, 4}, static_cast<std::uint64_t>(update)),
                                                   test::random_batch({6}, 50)};
        const StepResult result = train_step(s.decoder, s.trainable, optimizer, batches,
                                             test::whole_rates(s.trainable.parameters(), rates), max_grad_norm);
        ASSERT_TRUE(result.finite);
        if (max_grad_norm > 0) {
          ASSERT_GT(result.grad_norm, max_grad_norm) << "nothing is clipped";
        }
        compute_gradients(reference.decoder, reference.trainable, batches);
        plain.step(reference.gradients(), update, rate, 0.1, optim::clip_factor(result.grad_norm, max_grad_norm));
        const at::NoGradGuard no_grad;
        for (const optim::Parameter& p : reference.trainable.parameters())
          for (int group = 0; group < 2; ++group)
            for (std::size_t i = 0; i < plain.names[group].size(); ++i)
              if (plain.names[group][i] == p.name) p.master.copy_(plain.values[group][i]);
        reference.trainable.publish();
      }
      const auto masters = s.masters();
      for (int group = 0; group < 2; ++group)
        for (std::size_t i = 0; i < plain.names[group].size(); ++i) {
          const std::string& name = plain.names[group][i];
          EXPECT_TRUE(test::same_bits(masters.at(name), plain.values[group][i])) << name;
          EXPECT_TRUE(test::same_bits(optimizer.moments().at(name).exp_avg, plain.first[group][i])) << name;
          EXPECT_TRUE(test::same_bits(optimizer.moments().at(name).exp_avg_sq, plain.second[group][i])) << name;
        }
    }
  }
}

TEST(TrainStep, AUnitWithWeightZeroStaysBitIdenticalWhileTheOthersMove) {
  for (const std::string still : {"model.layers.2.self_attn.o_proj.weight", "model.layers.5.mlp.gate_proj.weight",
                                  "model.layers.5.input_layernorm.weight"}) {
    SCOPED_TRACE(still);
    ReadyModel s("qwen3");
    s.train(2);  // a copy with an output of zero has gradients nowhere else
    const auto before = s.masters();
    optim::AdamW optimizer(s.trainable.parameters(), {.weight_decay = 0.1});
    auto rates = s.rates(1e-2);
    rates.at(still).front().rate = 0;
    for (std::uint64_t i = 1; i <= 4; ++i) {
      const std::vector<model::Batch> batches = {test::random_batch({9, 4, 7}, i)};
      train_step(s.decoder, s.trainable, optimizer, batches, rates, 1.0);
    }
    for (const auto& [name, master] : s.masters())
      EXPECT_EQ(test::same_bits(master, before.at(name)), name == still) << name;
  }
}

TEST(TrainStep, ShowsTheDecoderTheNewMasters) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    ReadyModel s("llama_biased_tied", dtype);
    s.train(2);
    const auto shown = test::parameters_of(s.decoder);
    for (const auto& [name, master] : s.masters())
      EXPECT_TRUE(test::same_bits(shown.at(name), master.to(shown.at(name).scalar_type()))) << name;
  }
}

TEST(TrainStep, FrozenTensorsKeepTheirBytes) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      ReadyModel s(kind, dtype);
      const auto before = test::parameters_of(s.decoder);
      const FrozenTensors frozen(s.decoder, s.trainable);
      s.train(3);
      frozen.verify();
      std::set<std::string> trained;
      for (const optim::Parameter& p : s.trainable.parameters()) trained.insert(p.name);
      for (const auto& [name, value] : test::parameters_of(s.decoder))
        EXPECT_EQ(test::same_bits(value, before.at(name)), !trained.contains(name)) << name;
    }
  }
}

TEST(TrainStep, WithMatricesInTheNarrowerTypeOfTheFileIsThatWithWideOnesBitForBit) {
  for (const std::string& kind : test::model_kinds())
    for (const DType stored : {DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(kind);
      ReadyModel narrow(kind, at::kFloat, kAfter, 4, stored), wide(kind, at::kFloat, kAfter, 4, stored, true);
      const auto read = test::parameters_of(wide.decoder);
      for (const auto& [name, value] : test::parameters_of(narrow.decoder))
        EXPECT_TRUE(test::same_bits(value.to(at::kFloat), read.at(name).to(at::kFloat))) << name;
      EXPECT_EQ(frozen_hash("xxh3:1", narrow.decoder, narrow.trainable),
                frozen_hash("xxh3:1", wide.decoder, wide.trainable));
      const auto weights = [](const ReadyModel& s) {
        return resident_memory(s.decoder, s.trainable, optim::AdamW(s.trainable.parameters(), {})).weights;
      };
      EXPECT_LT(weights(narrow), 0.75 * static_cast<double>(weights(wide)));
      narrow.train(3);
      wide.train(3);
      const auto expected = wide.masters();
      for (const auto& [name, master] : narrow.masters())
        EXPECT_TRUE(test::same_bits(master, expected.at(name))) << name;
    }
}

TEST(FrozenTensors, SeesAWriteToEveryFrozenTensorAndNoTrainedOne) {
  ReadyModel s("llama_biased_tied");
  const at::NoGradGuard no_grad;
  for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights()))
    if (p.layer != 2 && p.layer != 5) *p.tensor = p.tensor->clone();  // some are mapped: a write would end the test
  const auto message_of = [](const FrozenTensors& frozen) {
    return test::message_of<InternalError>([&] { frozen.verify(); });
  };
  for (const auto& p : model::named_parameters(s.decoder.config(), s.decoder.weights())) {
    const FrozenTensors now(s.decoder, s.trainable);
    p.tensor->view(-1)[p.tensor->numel() - 1] += 1e-3;
    const bool is_frozen = p.layer != 2 && p.layer != 5;
    if (!is_frozen) {
      now.verify();
      continue;
    }
    EXPECT_THAT(message_of(now), AllOf(HasSubstr(p.name), HasSubstr("changed during training")));
    const FrozenTensors before(s.decoder, s.trainable);
    *p.tensor = p.tensor->clone();
    EXPECT_THAT(message_of(before), HasSubstr(p.name)) << "another tensor is in its place";
  }
}

TEST(FrozenHash, TellsWeightsTypesAndWhatTrains) {
  const ReadyModel s("llama"), other("llama", at::kFloat, {0, 3}), narrow("llama", at::kBFloat16);
  const std::string hash = frozen_hash("xxh3:1", s.decoder, s.trainable);
  EXPECT_EQ(frozen_hash("xxh3:1", s.decoder, s.trainable), hash);
  EXPECT_NE(frozen_hash("xxh3:2", s.decoder, s.trainable), hash);
  EXPECT_NE(frozen_hash("xxh3:1", other.decoder, other.trainable), hash);
  EXPECT_NE(frozen_hash("xxh3:1", narrow.decoder, narrow.trainable), hash);
}

TEST(TrainStep, BypassingTheCopiesOfATrainedModelGivesExactlyTheBase) {
  for (const std::string& kind : test::model_kinds()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(kind);
      ReadyModel s(kind, dtype);
      s.train(3);
      const at::NoGradGuard no_grad;
      const model::Decoder base = test::load_decoder(s.model.base, dtype);
      const nn::TokenIds ids = test::random_batch({17, 11}).input_ids;
      const at::Tensor expected = base.logits(base.forward(ids, {}));
      EXPECT_TRUE(test::same_bits(s.decoder.logits(test::forward_without({2, 5}, s.decoder, ids, {})), expected));
      EXPECT_FALSE(s.decoder.logits(s.decoder.forward(ids, {})).equal(expected)) << "training had no effect";
    }
  }
}

TEST(TrainStep, ALossThatIsNotFiniteChangesNoParameterAndNoMoment) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    ReadyModel s("llama", dtype);
    optim::AdamW optimizer(s.trainable.parameters(), {});
    const std::vector<model::Batch> batches = {test::random_batch({9, 4})};
    ASSERT_TRUE(train_step(s.decoder, s.trainable, optimizer, batches, s.rates(1e-2), 1.0).finite);
    s.trainable.parameters()[3].master.view(-1)[0] = std::nan("");
    s.trainable.publish();
    const auto masters = s.masters();
    std::map<std::string, at::Tensor> first, second;
    for (const auto& [name, moments] : optimizer.moments()) {
      first[name] = moments.exp_avg.clone();
      second[name] = moments.exp_avg_sq.clone();
    }
    const StepResult result = train_step(s.decoder, s.trainable, optimizer, batches, s.rates(1e-2), 1.0);
    EXPECT_FALSE(result.finite);
    EXPECT_EQ(result.num_targets, 11);
    EXPECT_EQ(optimizer.num_updates(), 1);
    for (const auto& [name, master] : s.masters()) EXPECT_TRUE(test::same_bits(master, masters.at(name))) << name;
    for (const auto& [name, moments] : optimizer.moments()) {
      EXPECT_TRUE(test::same_bits(moments.exp_avg, first.at(name))) << name;
      EXPECT_TRUE(test::same_bits(moments.exp_avg_sq, second.at(name))) << name;
    }
  }
}

}  // namespace
}  // namespace adept::train
