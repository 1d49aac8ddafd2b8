#include "adept/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <mutex>
#include <tuple>

#include "adept/core/error.h"
#include "adept/model/kv_cache.h"
#include "adept/nn/attention.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/gate.h"
#include "adept/nn/linear.h"
#include "adept/nn/normed_rope.h"
#include "adept/nn/recompute.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"

namespace adept::model {
namespace {

/// Each projection of x.
std::vector<at::Tensor> project(const nn::Input& x, std::initializer_list<const LinearWeights*> projections) {
  std::vector<at::Tensor> weights, biases;
  std::vector<nn::LoraAdapter> adapters;
  for (const LinearWeights* p : projections) {
    weights.push_back(p->weight);
    biases.push_back(p->bias);
    adapters.push_back(p->adapter);
  }
  return nn::with_adapters(nn::linears(x, weights, biases), x, adapters);
}

at::Tensor project(const nn::Input& x, const LinearWeights& projection) { return project(x, {&projection}).front(); }

}  // namespace

/// The residual stream is h + update: the addition is left to the norm that reads it next.
struct Decoder::Residual {
  at::Tensor h;       // (B, T, D)
  at::Tensor update;  // (B, T, D); undefined: zero

  nn::Input normed(const at::Tensor& weight, double eps) {
    at::Tensor normed;
    if (update.defined()) {
      const nn::NormedSum result = nn::add_rms_norm(h, update, weight, eps);
      h = result.sum;
      normed = result.normed;
      update.reset();
    } else {
      normed = nn::rms_norm(h, weight, eps);
    }
    return {normed, {h, weight}, [eps](const auto& sources) { return nn::rms_norm(sources[0], sources[1], eps); }};
  }

  /// Into the update's memory where no graph is being recorded for it.
  at::Tensor sum() && {
    if (!update.defined()) return h;
    if (at::GradMode::is_enabled() && (h.requires_grad() || update.requires_grad())) return h + update;
    return update.add_(h);
  }
};

/// Cosines and sines for the longest sequence so far.
struct Decoder::RopeCache {
  std::mutex mutex;
  nn::RopeTables tables;

  nn::RopeTables get(const ModelConfig& config, std::int64_t begin, std::int64_t length, at::ScalarType dtype,
                     at::Device device) {
    const std::lock_guard lock(mutex);
    const std::int64_t end = begin + length;
    if (!tables.cos.defined() || tables.cos.size(0) < end) {
      const std::int64_t known = tables.cos.defined() ? tables.cos.size(0) : 0;
      const at::NoGradGuard no_grad;
      tables = nn::rope_tables(config.rope, config.head_dim, std::max(end, 2 * known), dtype, device);
    }
    return {tables.cos.narrow(0, begin, length), tables.sin.narrow(0, begin, length)};
  }
};

Decoder::Decoder(ModelConfig config, Weights weights)
    : config_(std::move(config)), weights_(std::move(weights)), rope_(std::make_unique<RopeCache>()) {
  for (const NamedTensor& parameter : named_parameters(config_, weights_)) {
    ADEPT_CHECK(parameter.tensor->defined() && parameter.tensor->sizes() == parameter.shape,
                "{} is not there or has the wrong shape", parameter.name);
  }
  if (config_.tie_word_embeddings) weights_.lm_head = weights_.embed_tokens;
}

Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

at::Tensor Decoder::embed(const at::Tensor& ids) const {
  ADEPT_CHECK(ids.dim() == 2 && ids.scalar_type() == at::kLong, "ids must be (B, T) int64");
  if (ids.numel() > 0) {
    const std::int64_t low = ids.min().item<std::int64_t>(), high = ids.max().item<std::int64_t>();
    if (low < 0 || high >= config_.vocab_size) {
      throw DataError(
          "token {} is outside the model's vocabulary of {} tokens; the text was made with another tokenizer",
          low < 0 ? low : high, config_.vocab_size);
    }
  }
  return nn::embedding(ids.to(device()), weights_.embed_tokens).to(dtype());
}

at::Tensor Decoder::attention(const nn::Input& input, const LayerWeights& weights, std::int64_t l,
                              const Context& context) const {
  const at::Tensor& x = input.value;
  KeyValueCache* const cache = context.cache;
  const std::int64_t B = x.size(0), T = x.size(1), E = config_.head_dim;
  const std::vector<at::Tensor> projected = project(input, {&weights.q_proj, &weights.k_proj, &weights.v_proj});
  at::Tensor q = projected[0].view({B, T, config_.num_attention_heads, E});
  at::Tensor k = projected[1].view({B, T, config_.num_key_value_heads, E});
  at::Tensor v = projected[2].view({B, T, config_.num_key_value_heads, E}).transpose(1, 2);  // (B, K, T, E)
  const std::int64_t begin = cache == nullptr ? 0 : cache->length(l);
  const nn::RopeTables tables = rope_->get(config_, begin, T, x.scalar_type(), x.device());
  const nn::Visibility visibility = {.window = config_.sliding_window[static_cast<std::size_t>(l)],
                                     .document_starts = context.document_starts};
  ADEPT_CHECK(!visibility.document_starts.defined() || cache == nullptr, "a key-value cache holds single documents");
  at::Tensor mixed;  // (B, H, T, E)
  if (config_.qk_norm && cache == nullptr) {
    mixed = nn::normed_attention(q, k, v, {weights.q_norm, weights.k_norm, config_.rms_norm_eps}, tables, visibility);
  } else {
    const auto rotated = [&](const at::Tensor& heads, const at::Tensor& norm) {
      return config_.qk_norm ? nn::normed_rope(heads, norm, config_.rms_norm_eps, tables)
                             : nn::apply_rope(heads.transpose(1, 2), tables);
    };
    q = rotated(q, weights.q_norm);  // (B, H, T, E)
    k = rotated(k, weights.k_norm);  // (B, K, T, E)
    if (cache != nullptr) std::tie(k, v) = cache->append(l, k, v, visibility.window);
    mixed = nn::causal_attention(q, k, v, visibility);
  }
  return project({mixed.transpose(1, 2).reshape({B, T, config_.num_attention_heads * E})}, weights.o_proj);
}

const LayerWeights& Decoder::layer_weights(std::int64_t l) const {
  ADEPT_CHECK(l >= 0 && l < num_layers(), "layer {} of {}", l, num_layers());
  return weights_.layers[static_cast<std::size_t>(l)];
}

void Decoder::attend(Residual& stream, std::int64_t l, const Context& context) const {
  const LayerWeights& weights = layer_weights(l);
  const nn::Input x = stream.normed(weights.input_layernorm, config_.rms_norm_eps);
  stream.update = attention(x, weights, l, context);
}

// What the last projection multiplies: (B, T, F).
nn::Input Decoder::gated(Residual& stream, std::int64_t l) const {
  const LayerWeights& weights = layer_weights(l);
  const nn::Input x = stream.normed(weights.post_attention_layernorm, config_.rms_norm_eps);
  const std::vector<at::Tensor> projected = project(x, {&weights.gate_proj, &weights.up_proj});
  return {nn::gated(projected[0], projected[1], nn::Activation::kSilu), projected,
          [](const auto& sources) { return nn::gated(sources[0], sources[1], nn::Activation::kSilu); }};
}

void Decoder::feed_forward(Residual& stream, std::int64_t l) const {
  const nn::Input x = gated(stream, l);
  stream.update = project(x, layer_weights(l).down_proj);
}

at::Tensor Decoder::layer(const at::Tensor& h, std::int64_t l, const Context& context) const {
  return layers(h, l, l + 1, context);
}

at::Tensor Decoder::checkpointed_layer(const at::Tensor& h, std::int64_t l, bool whole, const Context& context) const {
  const LinearWeights& down = layer_weights(l).down_proj;
  const bool down_trains = down.weight.requires_grad() || down.adapter.a.defined();
  whole = whole && h.requires_grad();  // else nn::recomputed would keep the whole graph
  Residual stream{h, {}};
  if (!whole) {
    attend(stream, l, context);
    stream = {std::move(stream).sum(), {}};
  }
  const auto results = nn::recomputed(stream.h, [=, this](const at::Tensor& x) -> std::vector<at::Tensor> {
    Residual again{x, {}};
    if (whole) attend(again, l, context);
    if (down_trains) {
      feed_forward(again, l);
      return {std::move(again).sum()};
    }
    const at::Tensor product = gated(again, l).value;
    return {again.h, product};
  });
  if (down_trains) return results[0];
  stream = {results[0], project({results[1]}, down)};
  return std::move(stream).sum();
}

at::Tensor Decoder::layers(const at::Tensor& h, std::int64_t begin, std::int64_t end, const Context& context,
                           const LayerMask& bypass) const {
  ADEPT_CHECK(begin >= 0 && begin <= end && end <= num_layers(), "layers {} .. {} of {}", begin, end, num_layers());
  ADEPT_CHECK(bypass.empty() || static_cast<std::int64_t>(bypass.size()) == num_layers(), "a mask of {} for {} layers",
              bypass.size(), num_layers());
  Residual stream{h, {}};
  for (std::int64_t l = begin; l < end; ++l) {
    if (!bypass.empty() && bypass[static_cast<std::size_t>(l)]) continue;
    if (context.between != nullptr) context.between();
    attend(stream, l, context);
    if (context.between != nullptr) context.between();
    feed_forward(stream, l);
  }
  return std::move(stream).sum();
}

at::Tensor Decoder::forward(const at::Tensor& ids, const Context& context, const LayerMask& bypass) const {
  return layers(embed(ids), 0, num_layers(), context, bypass);
}

at::Tensor Decoder::logits(const at::Tensor& h) const {
  return nn::linear(nn::rms_norm(h, weights_.norm, config_.rms_norm_eps), weights_.lm_head);
}

at::Tensor Decoder::loss_sum(const at::Tensor& h, const at::Tensor& targets) const {
  return nn::linear_cross_entropy(nn::rms_norm(h, weights_.norm, config_.rms_norm_eps), weights_.lm_head,
                                  targets.to(device()));
}

at::Tensor Decoder::token_losses(const at::Tensor& h, const at::Tensor& targets) const {
  const at::NoGradGuard no_grad;
  return nn::linear_cross_entropy_per_token(nn::rms_norm(h, weights_.norm, config_.rms_norm_eps), weights_.lm_head,
                                            targets.to(device()));
}

}  // namespace adept::model
