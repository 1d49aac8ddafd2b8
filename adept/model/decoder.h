// The forward pass: embedding -> layers [a, b) -> final norm and head, each callable by itself.
//
// Legend: B sequences, T tokens, D hidden_size, V vocabulary, L layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "adept/model/config.h"
#include "adept/model/context.h"
#include "adept/model/weights.h"
#include "adept/nn/token_ids.h"

namespace adept::model {

/// A decoder over given weights.
///
/// Autograd is ATen's own: a graph exists only above the first tensor that requires a gradient, so with the lowest
/// trained layer at l nothing is recorded below l. The forward pass is const and may run on several threads;
/// `weights()` lets the owner replace tensors between passes.
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
  /// What it computes in. Matrices may be stored in a narrower type.
  at::ScalarType dtype() const { return nn::compute_type(weights_.norm.weight); }
  /// Whether several processes hold the layers together (LayerSource): each must make the same passes.
  bool is_shared() const { return weights_.source != nullptr; }
  at::Device device() const { return weights_.norm.weight.device(); }

  /// ids (B, T) on any device -> h_0 (B, T, D). Throws DataError for an id outside 0 .. V-1.
  at::Tensor embed(const nn::TokenIds& ids) const;

  /// One layer: h_l (B, T, D) -> h_{l+1} (B, T, D).
  at::Tensor layer(const at::Tensor& h, std::int64_t l, const Context& context) const;

  /// layer(h, l, context), of which the backward pass computes the feed-forward again, or with `whole` the attention as
  /// well where h takes part in the graph. The last projection is computed again only where it trains or has an
  /// adapter. The result is the same bit for bit.
  at::Tensor checkpointed_layer(const at::Tensor& h, std::int64_t l, bool whole, const Context& context) const;

  /// Layers begin .. end-1: h_begin -> h_end.
  at::Tensor layers(const at::Tensor& h, std::int64_t begin, std::int64_t end, const Context& context) const;

  /// embed, all layers: ids (B, T) -> h_L (B, T, D).
  at::Tensor forward(const nn::TokenIds& ids, const Context& context) const;

  /// Final norm and head: h_L (B, T, D) -> logits (B, T, V) in the compute dtype. For short inputs; a loss goes through
  /// the functions below.
  at::Tensor logits(const at::Tensor& h) const;

  /// Sum of the next-token losses, nats, fp32 scalar, differentiable. h_L (B, T, D), targets (B, T) on any device,
  /// targets[b, t] = the token after position t, or nn::kIgnoreIndex.
  /// `token_losses`, if given, gets what token_losses() returns, at no further pass.
  at::Tensor loss_sum(const at::Tensor& h, const nn::Targets& targets, at::Tensor* token_losses = nullptr) const;

  /// The loss of each position, (B, T) fp32, 0 without a target; builds no graph.
  at::Tensor token_losses(const at::Tensor& h, const nn::Targets& targets) const;

 private:
  struct Residual;
  void attend(Residual& stream, std::int64_t l, const Context& context) const;
  void feed_forward(Residual& stream, std::int64_t l) const;
  nn::Input gated(Residual& stream, std::int64_t l) const;
  at::Tensor fed_forward(const nn::Input& gated, std::int64_t l) const;
  at::Tensor head_input(const at::Tensor& h) const;
  const Layer& layer_of(std::int64_t l) const;
  void fetch(std::int64_t l) const;
  std::vector<at::Tensor> fetched_again(std::int64_t l, bool is_lowest, std::vector<at::Tensor> outputs) const;
  at::Tensor attention(const nn::Input& input, const Attention& body, std::int64_t l, const Context& context) const;

  ModelConfig config_;
  Weights weights_;
  std::vector<std::unique_ptr<nn::RopeCache>> ropes_;
};

}  // namespace adept::model
