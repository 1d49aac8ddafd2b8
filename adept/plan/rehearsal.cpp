#include "adept/plan/rehearsal.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <vector>

#include "adept/model/decoder.h"
#include "adept/nn/cross_entropy.h"
#include "adept/optim/adamw.h"
#include "adept/plan/pass.h"
#include "adept/train/methods.h"
#include "adept/train/step.h"
#include "adept/train/trainable.h"

namespace adept::plan {
namespace {

constexpr double kValue = 0.01;                // of every weight: nothing overflows, and no product is of zeros
constexpr std::int64_t kManyTokens = 1 << 16;  // more than a chunk of the head

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
      tensors.push_back({.name = p.name, .layer = p.layer, .slot = p.tensor, .initial = [shape = p.shape] {
                           return at::full(shape, kValue, at::kFloat);
                         }});
  return {decoder, std::move(tensors), {}};
}

// Of `count` layers; timed where there are two.
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
  return best_of(options.is_timed && count == 2, [&] {
    at::AutoGradMode grad(use != Use::kWithoutGraph);
    const auto forward = [&] {
      at::Tensor h = at::full({options.rows, tokens, decoder.config().hidden_size}, kValue, options.dtype);
      if (use != Use::kWithoutGraph && input_has_graph) h.requires_grad_();
      return train::through_layers(decoder, h, 0, {}, options.config.train.activation_checkpointing);
    };
    return run_pass(forward, trainable ? &*trainable : nullptr);
  });
}

/// What a token more costs, from passes of all tokens and of half of each row.
class PerToken {
 public:
  explicit PerToken(const RehearsalOptions& options)
      : tokens_more_(static_cast<double>(options.rows * (options.tokens - options.tokens / 2))) {}
  double operator()(double whole, double half) const { return (whole - half) / tokens_more_; }

 private:
  double tokens_more_;
};

}  // namespace

PartCost rehearse_layer(const RehearsalOptions& options, std::size_t layer, Use use, const Place& place) {
  const auto pass = [&](std::int64_t count, std::int64_t tokens) {
    return pass_through_layers(options, layer, use, place.input_has_graph, count, tokens);
  };
  const std::int64_t n = options.rows * options.tokens;
  const Pass one = pass(1, options.tokens), two = pass(2, options.tokens), half = pass(1, options.tokens / 2);
  const PerToken slope(options);
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

namespace {

Pass pass_through_head(const RehearsalOptions& options, Use use, std::int64_t rows, std::int64_t tokens) {
  model::Decoder decoder = stack(options, 0, 1, options.model.vocab_size);
  std::optional<train::Trainable> trainable;
  if (use == Use::kTrained)
    trainable.emplace(make_trainable(decoder, [&](const model::Parameter& p) {
      return p.role == model::Role::kHead || p.role == model::Role::kNorm ||
             (p.role == model::Role::kEmbedding && options.model.tie_word_embeddings);
    }));
  return best_of(options.is_timed, [&] {
    at::AutoGradMode grad(use != Use::kWithoutGraph);
    at::Tensor h = at::full({rows, tokens, decoder.config().hidden_size}, kValue, options.dtype);
    h.set_requires_grad(use != Use::kWithoutGraph);
    const at::Tensor targets = at::arange(rows * tokens, at::kLong).remainder(options.model.vocab_size);
    return run_pass([&] { return decoder.loss_sum(h, targets.view({rows, tokens})); },
                    trainable ? &*trainable : nullptr);
  });
}

PartCost rehearse_frozen_head(const RehearsalOptions& options, Use use) {
  const auto pass = [&](std::int64_t tokens) { return pass_through_head(options, use, options.rows, tokens); };
  const std::int64_t n = options.rows * options.tokens;
  const Pass whole = pass(options.tokens), half = pass(options.tokens / 2);
  const PerToken slope(options);
  PartCost cost;
  cost.kept = slope(whole.kept, half.kept);
  cost.forward = std::max(0.0, slope(whole.forward_peak - whole.kept, half.forward_peak - half.kept));
  cost.fixed = std::max(0.0, whole.forward_peak - whole.kept - cost.forward * static_cast<double>(n));
  cost.backward = std::max(0.0, slope(whole.backward_peak - whole.kept, half.backward_peak - half.kept));
  cost.seconds = whole.seconds / static_cast<double>(n);
  return cost;
}

// Its logits are those of a chunk of tokens: half a chunk, one and two tell the bytes of a chunk from those of all.
PartCost rehearse_trained_head(const RehearsalOptions& options) {
  const std::int64_t most = nn::head_chunk_tokens(kManyTokens, options.model.vocab_size);
  const auto pass = [&](std::int64_t tokens) { return pass_through_head(options, Use::kTrained, 1, tokens); };
  const Pass half = pass(most / 2), one = pass(most), two = pass(2 * most);
  const auto n = static_cast<double>(most);
  const auto above = [](const Pass& p) { return p.forward_peak - p.kept; };
  PartCost cost;
  cost.kept = (two.kept - one.kept) / n;
  cost.forward = std::max(0.0, (above(two) - above(one)) / n);
  cost.chunk = std::max(0.0, (above(one) - above(half)) / (n - static_cast<double>(most / 2)) - cost.forward);
  cost.fixed = std::max(0.0, above(one) - (cost.forward + cost.chunk) * n);
  cost.backward = std::max(0.0, (two.backward_peak - two.kept - (one.backward_peak - one.kept)) / n);
  cost.seconds = two.seconds / (2 * n);
  return cost;
}

// Of a logit of a chunk, at the peak of nn::linear_cross_entropy by operations of ATen: the logit, its fp32 value, the
// log-softmax, and the gradient in the type of the logit. Those of one type share memory. A soft cap has a slope.
double gpu_bytes_of_logit(const RehearsalOptions& options) {
  const auto size = static_cast<double>(at::elementSize(options.dtype));
  constexpr double kWide = 4;
  if (options.model.logit_soft_cap > 0) return size + 4 * kWide;  // capped, log-softmax and two of the slope
  return options.dtype == at::kFloat ? 2 * kWide : size + 2 * kWide + size;
}

// What stays is the same on any device: the gradients of the hidden states and of the head.
PartCost on_gpu(PartCost cost, const RehearsalOptions& options, Use use) {
  constexpr double kLossBytes = 2 * 4;  // of a token: its loss, and the one that is reported
  cost.forward = kLossBytes;
  cost.chunk = static_cast<double>(options.model.vocab_size) * gpu_bytes_of_logit(options);
  cost.fixed = 0;
  // The head in the type of the products, and its gradient from a chunk before that is added in fp32.
  if (use == Use::kTrained && options.dtype != at::kFloat)
    cost.fixed = 2 * static_cast<double>(options.model.vocab_size * options.model.hidden_size) *
                 static_cast<double>(at::elementSize(options.dtype));
  return cost;
}

}  // namespace

PartCost rehearse_head(const RehearsalOptions& options, Use use) {
  const PartCost cost = use == Use::kTrained ? rehearse_trained_head(options) : rehearse_frozen_head(options, use);
  return options.for_gpu ? on_gpu(cost, options, use) : cost;
}

MeasurementCost rehearse_measurement(const RehearsalOptions& options, std::size_t layer,
                                     FunctionRef<void(const model::Decoder&, const model::Batch&)> measure) {
  constexpr std::int64_t kFew = 3, kMore = 4;  // layers: also of a model with copies, one above the copy
  const auto peak = [&](std::int64_t count, std::int64_t tokens) {
    const model::Decoder decoder = stack(options, layer, count, /*vocab_size=*/1);
    const at::Tensor ids = at::zeros({1, tokens}, at::kLong);
    const model::Batch batch = {.input_ids = ids, .targets = ids, .num_targets = tokens};
    return best_of(/*is_timed=*/false,
                   [&] {
                     return run_pass(
                         [&] {
                           measure(decoder, batch);
                           return at::empty({0});
                         },
                         /*trainable=*/nullptr);
                   })
        .forward_peak;
  };
  const std::int64_t most = options.tokens, less = options.tokens / 2;
  const auto n = static_cast<double>(less), tokens_more = static_cast<double>(most - less);
  const double few = peak(kFew, less), few_of_most = peak(kFew, most);
  const double more = peak(kMore, less), more_of_most = peak(kMore, most);
  MeasurementCost cost;
  cost.token_of_layer = std::max(0.0, ((more_of_most - few_of_most) - (more - few)) / tokens_more);
  cost.layer = std::max(0.0, more - few - cost.token_of_layer * n);
  cost.token = std::max(0.0, (few_of_most - few) / tokens_more - cost.token_of_layer * kFew);
  cost.fixed = std::max(0.0, few - cost.at(n, kFew));
  return cost;
}

double rehearse_update() {
  constexpr std::int64_t kParameters = 1 << 24;  // more than the caches hold
  const at::Tensor master = at::full({kParameters / 1024, 1024}, kValue, at::kFloat);
  const std::vector<at::Tensor> gradients = {at::full(master.sizes(), kValue, at::kFloat)};
  optim::AdamW optimizer({{.name = "weight", .master = master}}, {});
  const optim::ParameterRates rates = {{"weight", {{.dim = 0, .begin = 0, .end = master.size(0), .rate = 1e-6}}}};
  const double seconds = best_seconds([&] {
    const double norm = std::sqrt(optim::squared_grad_norm(gradients).item<double>());
    optimizer.step(gradients, rates, optim::clip_factor(norm, 1.0));
  });
  return seconds / static_cast<double>(kParameters);
}

}  // namespace adept::plan
