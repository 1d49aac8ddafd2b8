#include "adept/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include "adept/core/error.h"
#include "adept/model/kv_cache.h"
#include "adept/nn/attention.h"
#include "adept/nn/before_backward.h"
#include "adept/nn/gate.h"
#include "adept/nn/linear.h"
#include "adept/nn/normed_rope.h"
#include "adept/nn/recompute.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"

namespace adept::model {
namespace {

std::vector<at::Tensor> project(const nn::Input& x, const std::vector<Projection>& projections) {
  std::vector<const nn::Linear*> linears;
  for (const Projection& p : projections) linears.push_back(&p.linear);
  std::vector<at::Tensor> results;
  const std::vector<at::Tensor> products = nn::project(x, linears);
  for (std::size_t i = 0; i < products.size(); ++i) {
    if (projections[i].sections.empty()) {
      results.push_back(products[i]);
      continue;
    }
    for (const at::Tensor& part : products[i].split_with_sizes(projections[i].sections, -1)) results.push_back(part);
  }
  return results;
}

/// What comes out of the body of a branch, as it is added to the residual stream.
template <typename Body>
at::Tensor added(at::Tensor output, const Branch<Body>& branch) {
  if (branch.post_norm) output = (*branch.post_norm)(output);
  return branch.multiplier == 1 ? output : output * branch.multiplier;
}

}  // namespace

/// The residual stream is h + update: the addition is left to the norm that reads it next.
struct Decoder::Residual {
  at::Tensor h;       // (B, T, D)
  at::Tensor update;  // (B, T, D); undefined: zero

  /// What a branch reads.
  nn::Input input(const std::optional<Norm>& norm) {
    if (!norm) {
      if (update.defined()) h = h + std::exchange(update, {});
      return {h};
    }
    at::Tensor normed;
    if (update.defined()) {
      const nn::NormedSum result = nn::add_rms_norm(h, update, norm->weight, norm->eps, norm->gain);
      h = result.sum;
      normed = result.normed;
      update.reset();
    } else {
      normed = (*norm)(h);
    }
    return {normed, {h, norm->weight}, [eps = norm->eps, gain = norm->gain](const auto& sources) {
              return nn::rms_norm(sources[0], sources[1], eps, gain);
            }};
  }

  /// Into the update's memory where no graph is being recorded for it.
  at::Tensor sum() && {
    if (!update.defined()) return h;
    if (at::GradMode::is_enabled() && (h.requires_grad() || update.requires_grad())) return h + update;
    return update.add_(h);
  }
};

Decoder::Decoder(ModelConfig config, Weights weights) : config_(std::move(config)), weights_(std::move(weights)) {
  for (const nn::RopeParameters& rope : config_.ropes)
    ropes_.push_back(std::make_unique<nn::RopeCache>(rope, config_.head_dim));
  for (const Parameter& parameter : named_parameters(config_, weights_)) {
    ADEPT_CHECK(parameter.tensor->defined() && parameter.tensor->sizes() == parameter.shape,
                "{} is not there or has the wrong shape", parameter.name);
  }
  if (config_.tie_word_embeddings) weights_.lm_head = weights_.embed_tokens;
}

Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

at::Tensor Decoder::embed(const nn::TokenIds& ids) const {
  ADEPT_CHECK(ids.values.dim() == 2, "ids must be (B, T)");
  if (ids.least < 0 || ids.most >= config_.vocab_size) {
    throw DataError("token {} is outside the model's vocabulary of {} tokens; the text was made with another tokenizer",
                    ids.least < 0 ? ids.least : ids.most, config_.vocab_size);
  }
  return weights_.embed_tokens.rows(ids, dtype(), config_.embedding_scale);
}

at::Tensor Decoder::attention(const nn::Input& input, const Attention& body, std::int64_t l,
                              const Context& context) const {
  const at::Tensor& x = input.value;
  KeyValueCache* const cache = context.cache;
  const std::int64_t B = x.size(0), T = x.size(1), H = body.num_heads, K = body.num_kv_heads, E = body.head_dim;
  std::vector<at::Tensor> projected = project(input, body.inputs);
  if (body.norms_whole_width()) {
    projected[0] = (*body.q_norm)(projected[0]);
    projected[1] = (*body.k_norm)(projected[1]);
  }
  const bool norms_heads = body.q_norm && !body.norms_whole_width();
  at::Tensor q = projected[0].view({B, T, H, E}), k = projected[1].view({B, T, K, E});
  at::Tensor v = projected[2].view({B, T, K, E}).transpose(1, 2);  // (B, K, T, E)
  const std::int64_t begin = cache == nullptr ? 0 : cache->length(l);
  const nn::Visibility visibility = {
      .window = body.window, .document_starts = context.document_starts, .document_bounds = context.document_bounds};
  nn::RopeCache& rope = *ropes_.at(body.rope);
  const nn::RopeTables tables = cache == nullptr ? rope.get_rows(T, context.document_starts, context.lengths,
                                                                 x.scalar_type(), x.device(), context.rope_tables.get())
                                                 : rope.get(begin, begin + T, std::max(begin + T, context.text_length),
                                                            x.scalar_type(), x.device());
  ADEPT_CHECK(!visibility.document_starts.defined() || cache == nullptr, "a key-value cache holds single documents");
  at::Tensor mixed;  // (B, H, T, E)
  if (norms_heads && cache == nullptr) {
    const Norm &q_norm = *body.q_norm, &k_norm = *body.k_norm;
    mixed = nn::normed_attention(q, k, v, {q_norm.weight, k_norm.weight, q_norm.eps, q_norm.gain}, tables, visibility,
                                 body.scoring);
  } else {
    const auto rotated = [&](const at::Tensor& heads, const std::optional<Norm>& norm) {
      return norms_heads ? nn::normed_rope(heads, norm->weight, norm->eps, tables, norm->gain)
                         : nn::apply_rope(heads.transpose(1, 2), tables);
    };
    q = rotated(q, body.q_norm);  // (B, H, T, E)
    k = rotated(k, body.k_norm);  // (B, K, T, E)
    if (cache != nullptr) std::tie(k, v) = cache->append(l, k, v, visibility.window);
    mixed = nn::causal_attention(q, k, v, visibility, body.scoring);
  }
  return nn::project({mixed.transpose(1, 2).reshape({B, T, H * E})}, body.output.linear);
}

const Layer& Decoder::layer_of(std::int64_t l) const {
  ADEPT_CHECK(l >= 0 && l < num_layers(), "layer {} of {}", l, num_layers());
  return weights_.layers[static_cast<std::size_t>(l)];
}

void Decoder::attend(Residual& stream, std::int64_t l, const Context& context) const {
  const Branch<Attention>& branch = layer_of(l).attention;
  stream.update = added(attention(stream.input(branch.pre_norm), branch.body, l, context), branch);
}

// What the last projection multiplies: (B, T, F).
nn::Input Decoder::gated(Residual& stream, std::int64_t l) const {
  const Branch<FeedForward>& branch = layer_of(l).feed_forward;
  const std::vector<at::Tensor> projected = project(stream.input(branch.pre_norm), branch.body.inputs);
  const auto gate = [activation = branch.body.activation](const auto& sources) {
    return nn::gated(sources[0], sources[1], activation);
  };
  return {gate(projected), projected, gate};
}

at::Tensor Decoder::fed_forward(const nn::Input& gated, std::int64_t l) const {
  const Branch<FeedForward>& branch = layer_of(l).feed_forward;
  return added(nn::project(gated, branch.body.output.linear), branch);
}

void Decoder::feed_forward(Residual& stream, std::int64_t l) const {
  const nn::Input x = gated(stream, l);
  stream.update = fed_forward(x, l);
}

void Decoder::fetch(std::int64_t l) const {
  if (weights_.source != nullptr) weights_.source->fetch(l, +1);
}

// The backward pass of a layer starts where the forward pass ends. Nothing below its lowest layer is needed then.
std::vector<at::Tensor> Decoder::fetched_again(std::int64_t l, bool is_lowest, std::vector<at::Tensor> outputs) const {
  if (weights_.source == nullptr) return outputs;
  return nn::before_backward(outputs,
                             [source = weights_.source, l, is_lowest] { source->fetch(l, is_lowest ? 0 : -1); });
}

at::Tensor Decoder::layer(const at::Tensor& h, std::int64_t l, const Context& context) const {
  return layers(h, l, l + 1, context);
}

at::Tensor Decoder::checkpointed_layer(const at::Tensor& h, std::int64_t l, bool whole, const Context& context) const {
  const bool keeps_product = layer_of(l).feed_forward.body.output.linear.keeps_input();
  const bool is_lowest = !h.requires_grad();
  whole = whole && !is_lowest;  // else nn::recomputed would keep the whole graph
  fetch(l);
  Residual stream{h, {}};
  if (!whole) {
    attend(stream, l, context);
    stream = {std::move(stream).sum(), {}};
  }
  const auto results = nn::recomputed(stream.h, [=, this](const at::Tensor& x) -> std::vector<at::Tensor> {
    Residual again{x, {}};
    if (whole) attend(again, l, context);
    if (keeps_product) {
      feed_forward(again, l);
      return {std::move(again).sum()};
    }
    const at::Tensor product = gated(again, l).value;
    return {again.h, product};
  });
  stream = keeps_product ? Residual{results[0], {}} : Residual{results[0], fed_forward({results[1]}, l)};
  return fetched_again(l, is_lowest, {std::move(stream).sum()}).front();
}

at::Tensor Decoder::layers(const at::Tensor& h, std::int64_t begin, std::int64_t end, const Context& context) const {
  ADEPT_CHECK(begin >= 0 && begin <= end && end <= num_layers(), "layers {} .. {} of {}", begin, end, num_layers());
  Residual stream{h, {}};
  // Other processes wait for this one's part of the next layer.
  const BetweenLayers between = is_shared() ? nullptr : context.between;
  for (std::int64_t l = begin; l < end; ++l) {
    if (between != nullptr) between();
    const bool is_lowest = !stream.h.requires_grad() && (!stream.update.defined() || !stream.update.requires_grad());
    fetch(l);
    attend(stream, l, context);
    if (between != nullptr) between();
    feed_forward(stream, l);
    const std::vector<at::Tensor> outputs = fetched_again(l, is_lowest, {stream.h, stream.update});
    stream = {outputs[0], outputs[1]};
  }
  return std::move(stream).sum();
}

at::Tensor Decoder::forward(const nn::TokenIds& ids, const Context& context) const {
  return layers(embed(ids), 0, num_layers(), context);
}

// The divisor of the logits is that of what the head multiplies.
at::Tensor Decoder::head_input(const at::Tensor& h) const {
  const at::Tensor normed = weights_.norm(h);
  return config_.logit_divisor == 1 ? normed : normed / config_.logit_divisor;
}

at::Tensor Decoder::logits(const at::Tensor& h) const {
  return weights_.lm_head.logits(head_input(h), config_.logit_soft_cap);
}

at::Tensor Decoder::loss_sum(const at::Tensor& h, const nn::Targets& targets, at::Tensor* token_losses) const {
  return weights_.lm_head.loss_sum(head_input(h), targets, config_.logit_soft_cap, token_losses);
}

at::Tensor Decoder::token_losses(const at::Tensor& h, const nn::Targets& targets) const {
  const at::NoGradGuard no_grad;
  return weights_.lm_head.token_losses(head_input(h), targets, config_.logit_soft_cap);
}

}  // namespace adept::model
