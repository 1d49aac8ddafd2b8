// The forward pass: embedding -> layers [a, b) -> final norm and head, each callable by itself.
//
// Legend: B sequences, T tokens, D hidden_size, V vocabulary, L layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "adept/model/activation_cache.h"
#include "adept/model/config.h"
#include "adept/model/kv_cache.h"
#include "adept/model/weights.h"

namespace adept::model {

/// Layers to be replaced by the identity residual: bypass[l] for layer l. Empty: none.
using LayerMask = std::vector<bool>;

/// Called before each half of a layer. What it throws ends the pass: throw_if_interrupted, for passes of which nothing
/// has to be kept.
using BetweenLayers = void (*)();

/// A decoder over given weights. Padding is on the right and attention is causal, so no padding mask exists: what
/// stands after a sequence never reaches it.
///
/// Autograd is ATen's own: a graph exists only above the first tensor that requires a gradient, so with the lowest
/// trained layer at l nothing is recorded below l. All members are const and may be called from several threads.
class Decoder {
 public:
  /// The weights' tensors are shared, not copied: replacing values in place (an optimizer step) is seen here.
  Decoder(ModelConfig config, Weights weights);
  ~Decoder();
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  Weights& weights() { return weights_; }
  std::int64_t num_layers() const { return config_.num_hidden_layers; }
  /// What it computes in: the norms' type. Matrices may be stored in a narrower one.
  at::ScalarType dtype() const { return weights_.norm.scalar_type(); }
  at::Device device() const { return weights_.embed_tokens.device(); }

  /// A decoder with the same weights on another device.
  Decoder to(at::Device device) const;

  /// ids (B, T) int64 on any device -> h_0 (B, T, D).
  at::Tensor embed(const at::Tensor& ids) const;

  /// One layer: h_l (B, T, D) -> h_{l+1} (B, T, D). With a cache, the T tokens follow those in the cache.
  at::Tensor layer(const at::Tensor& h, std::int64_t l, KeyValueCache* cache = nullptr) const;

  /// layer(h, l), of which the backward pass computes the feed-forward again, or with `whole` the attention as well
  /// where h takes part in the graph. The last projection is computed again only where it trains or has an adapter. The
  /// result is the same bit for bit.
  at::Tensor checkpointed_layer(const at::Tensor& h, std::int64_t l, bool whole) const;

  /// Layers begin .. end-1, those in `bypass` skipped: h_begin -> h_end.
  at::Tensor layers(const at::Tensor& h, std::int64_t begin, std::int64_t end, const LayerMask& bypass = {},
                    KeyValueCache* cache = nullptr, BetweenLayers between = nullptr) const;

  /// Final norm and head: h_L (B, T, D) -> logits (B, T, V) in the compute dtype. For short inputs; a loss goes through
  /// the functions below.
  at::Tensor logits(const at::Tensor& h) const;

  /// Sum of the next-token losses, nats, fp32 scalar, differentiable. h_L (B, T, D), targets (B, T) int64 on any
  /// device, targets[b, t] = the token after position t, or nn::kIgnoreIndex.
  at::Tensor loss_sum(const at::Tensor& h, const at::Tensor& targets) const;

  /// The loss of each position, (B, T) fp32, 0 where there is no target; builds no graph.
  at::Tensor token_losses(const at::Tensor& h, const at::Tensor& targets) const;

  /// embed and the layers below `end`, without a graph: ids (B, T) -> h_end (B, T, D), from the activation cache where
  /// one is used for that `end`.
  at::Tensor prefix(const at::Tensor& ids, std::int64_t end, BetweenLayers between = nullptr) const;

  /// Uses a cache for the activations of the layers below cache->num_layers(), which must stay as they are; null: none.
  void use_activation_cache(std::shared_ptr<ActivationCache> cache) { activation_cache_ = std::move(cache); }
  const std::shared_ptr<ActivationCache>& activation_cache() const { return activation_cache_; }

  /// embed, all layers: ids (B, T) -> h_L (B, T, D). With an activation cache, its layers build no graph.
  at::Tensor forward(const at::Tensor& ids, const LayerMask& bypass = {}, BetweenLayers between = nullptr) const;

 private:
  struct Residual;
  void attend(Residual& stream, std::int64_t l, KeyValueCache* cache) const;
  void feed_forward(Residual& stream, std::int64_t l) const;
  nn::Input gated(Residual& stream, std::int64_t l) const;
  const LayerWeights& layer_weights(std::int64_t l) const;
  at::Tensor attention(const nn::Input& input, const LayerWeights& weights, std::int64_t l, KeyValueCache* cache) const;

  struct RopeCache;
  ModelConfig config_;
  Weights weights_;
  std::unique_ptr<RopeCache> rope_;
  std::shared_ptr<ActivationCache> activation_cache_;
};

}  // namespace adept::model
