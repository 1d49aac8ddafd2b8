#include "adept/plan/rehearsal.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "adept/model/decoder.h"
#include "adept/nn/allocator.h"
#include "adept/nn/kernels.h"
#include "adept/optim/adamw.h"
#include "adept/train/methods.h"
#include "adept/train/step.h"
#include "adept/train/trainable.h"

namespace adept::plan {
namespace {

constexpr double kValue = 0.01;  // of every weight: nothing overflows, and no product is of zeros
constexpr int kRepeats = 4;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::int64_t bytes_in_use() { return nn::tensor_memory().in_use - nn::thread_workspace_bytes(); }

// A model of `count` layers like one of the model's, with this vocabulary.
model::Decoder stack(const RehearsalOptions& options, std::size_t layer, std::int64_t count, std::int64_t vocab_size) {
  model::ModelConfig config = options.model;
  config.layers.assign(static_cast<std::size_t>(count), options.model.layers[layer]);
  config.num_hidden_layers = count;
  config.vocab_size = vocab_size;
  model::Weights weights;
  for (const model::Parameter& p : model::named_parameters(config, weights))
    *p.tensor = at::full(p.shape, kValue, p.is_matrix() ? options.stored_dtype : options.dtype);
  if (config.tie_word_embeddings) weights.lm_head = weights.embed_tokens;
  return {std::move(config), std::move(weights)};
}

// Makes the parameters that `wanted` names trainable, with masters as in a training.
train::Trainable make_trainable(model::Decoder& decoder, const std::function<bool(const model::Parameter&)>& wanted) {
  std::vector<train::TrainedTensor> tensors;
  for (const model::Parameter& p : model::named_parameters(decoder.config(), decoder.weights()))
    if (wanted(p))
      tensors.push_back(
          {.name = p.name, .layer = p.layer, .slot = p.tensor, .master = at::full(p.shape, kValue, at::kFloat)});
  return {decoder, std::move(tensors)};
}

/// One pass: bytes above those before it, and seconds.
struct Pass {
  double kept = 0, forward_peak = 0, backward_peak = 0, seconds = 0;
};

// `forward` returns what the backward pass starts from; undefined: there is none.
Pass run_pass(const std::function<at::Tensor()>& forward, train::Trainable* trainable) {
  Pass pass;
  const std::int64_t before = bytes_in_use();
  nn::reset_peak_tensor_memory();
  const double start = now();
  at::Tensor result = forward();
  pass.forward_peak = static_cast<double>(nn::tensor_memory().peak - before);
  pass.kept = static_cast<double>(bytes_in_use() - before);
  if (result.requires_grad()) {
    nn::reset_peak_tensor_memory();
    const at::Tensor gradient = at::ones_like(result);
    torch::autograd::backward({std::move(result)}, {gradient});
    pass.backward_peak = static_cast<double>(nn::tensor_memory().peak - before);
  }
  pass.seconds = now() - start;
  if (trainable != nullptr) {
    trainable->collect_gradients();
    trainable->drop_gradients();
  }
  return pass;
}

// The peaks of a pass that has its buffers, and the shortest time.
Pass best_of(bool is_timed, const std::function<Pass()>& run) {
  run();
  Pass best = run();
  for (int i = 1; is_timed && i < kRepeats; ++i) best.seconds = std::min(best.seconds, run().seconds);
  return best;
}

// Of `count` layers.
Pass pass_through_layers(const RehearsalOptions& options, std::size_t layer, Use use, bool input_has_graph,
                         std::int64_t count, std::int64_t tokens) {
  model::Decoder decoder = stack(options, layer, count, /*vocab_size=*/1);
  std::optional<train::Trainable> trainable;
  if (use == Use::kTrained) {
    if (options.config.method == train::Method::kLora)
      trainable.emplace(decoder, train::add_adapters(options.config, decoder));
    else
      trainable.emplace(make_trainable(decoder, [](const model::Parameter& p) { return p.layer >= 0; }));
  }
  const at::NoGradGuard no_grad;
  return best_of(options.is_timed, [&] {
    at::AutoGradMode grad(use != Use::kWithoutGraph);
    const auto forward = [&] {
      at::Tensor h = at::full({options.rows, tokens, decoder.config().hidden_size}, kValue, options.dtype);
      if (use != Use::kWithoutGraph && input_has_graph) h.requires_grad_();
      return train::through_layers(decoder, h, 0, {}, options.config.train.activation_checkpointing);
    };
    return run_pass(forward, trainable ? &*trainable : nullptr);
  });
}

}  // namespace

PartCost rehearse_layer(const RehearsalOptions& options, std::size_t layer, Use use, const Place& place) {
  const auto pass = [&](std::int64_t count, std::int64_t tokens) {
    return pass_through_layers(options, layer, use, place.input_has_graph, count, tokens);
  };
  const std::int64_t n = options.rows * options.tokens;
  const Pass one = pass(1, options.tokens), two = pass(2, options.tokens), half = pass(1, options.tokens / 2);
  const auto tokens_more = static_cast<double>(options.rows * (options.tokens - options.tokens / 2));
  const auto slope = [&](double whole, double of_half) { return (whole - of_half) / tokens_more; };
  PartCost cost;
  const double kept = place.is_lowest ? one.kept : two.kept - one.kept;
  cost.kept = use == Use::kWithoutGraph ? 0 : kept / static_cast<double>(n);
  cost.forward = slope(one.forward_peak, half.forward_peak);
  if (use != Use::kWithoutGraph) {
    cost.forward -= slope(one.kept, half.kept);
    cost.backward = slope(one.backward_peak - one.kept, half.backward_peak - half.kept);
    cost.fixed = std::max(0.0, one.backward_peak - one.kept - cost.backward * static_cast<double>(n));
  } else {
    cost.fixed = std::max(0.0, one.forward_peak - cost.forward * static_cast<double>(n));
  }
  cost.seconds = two.seconds / static_cast<double>(2 * n);
  return cost;
}

PartCost rehearse_head(const RehearsalOptions& options, Use use) {
  model::Decoder decoder = stack(options, 0, 1, options.model.vocab_size);
  std::optional<train::Trainable> trainable;
  if (use == Use::kTrained)
    trainable.emplace(make_trainable(decoder, [&](const model::Parameter& p) {
      return p.role == model::Role::kHead || p.role == model::Role::kNorm ||
             (p.role == model::Role::kEmbedding && options.model.tie_word_embeddings);
    }));
  const auto pass = [&](std::int64_t tokens) {
    return best_of(options.is_timed, [&] {
      at::AutoGradMode grad(true);
      at::Tensor h = at::full({options.rows, tokens, decoder.config().hidden_size}, kValue, options.dtype);
      h.requires_grad_();
      const at::Tensor targets =
          at::arange(options.rows * tokens, at::kLong).remainder(options.model.vocab_size).view({options.rows, tokens});
      return run_pass([&] { return decoder.loss_sum(h, targets); }, trainable ? &*trainable : nullptr);
    });
  };
  const std::int64_t n = options.rows * options.tokens;
  const Pass whole = pass(options.tokens), half = pass(options.tokens / 2);
  const auto tokens_more = static_cast<double>(options.rows * (options.tokens - options.tokens / 2));
  const auto slope = [&](double a, double b) { return (a - b) / tokens_more; };
  PartCost cost;
  cost.kept = slope(whole.kept, half.kept);
  cost.forward = std::max(0.0, slope(whole.forward_peak - whole.kept, half.forward_peak - half.kept));
  cost.fixed = std::max(0.0, whole.forward_peak - whole.kept - cost.forward * static_cast<double>(n));
  cost.backward = std::max(0.0, slope(whole.backward_peak - whole.kept, half.backward_peak - half.kept));
  cost.seconds = whole.seconds / static_cast<double>(n);
  return cost;
}

double rehearse_update() {
  constexpr std::int64_t kParameters = 1 << 24;  // more than the caches hold
  const at::Tensor master = at::full({kParameters / 1024, 1024}, kValue, at::kFloat);
  const std::vector<at::Tensor> gradients = {at::full(master.sizes(), kValue, at::kFloat)};
  optim::AdamW optimizer({{.name = "weight", .master = master}}, {});
  const optim::ParameterRates rates = {{"weight", {{.dim = 0, .begin = 0, .end = master.size(0), .rate = 1e-6}}}};
  double best = 1e30;
  for (int i = 0; i < kRepeats + 1; ++i) {
    const double start = now();
    optimizer.step(gradients, rates,
                   optim::clip_factor(std::sqrt(optim::squared_grad_norm(gradients).item<double>()), 1.0));
    best = std::min(best, now() - start);
  }
  return best / static_cast<double>(kParameters);
}

}  // namespace adept::plan
