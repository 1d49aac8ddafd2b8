#include "adept/model/layer_gradients.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstddef>

#include "adept/core/error.h"
#include "adept/nn/stored.h"

namespace adept::model {
namespace {

at::Tensor as_leaf(const at::Tensor& tensor) { return tensor.detach().set_requires_grad(true); }

// The parameters of layer l, made to require a gradient, in the compute dtype.
std::vector<Parameter> as_leaves(Decoder& decoder, int l) {
  std::vector<Parameter> parameters = layer_parameters(decoder.weights(), l);
  for (const Parameter& p : parameters) *p.tensor = nn::leaf_of(*p.tensor, decoder.dtype());
  return parameters;
}

double visit(const FrozenPrefix& model, const Batch& batch, std::span<const int> layers, bool with_parameters,
             const LayerGradientVisitor& visitor) {
  ADEPT_CHECK(!layers.empty() && std::is_sorted(layers.begin(), layers.end()), "layers must be ascending");
  ADEPT_CHECK(batch.num_targets > 0, "a batch without targets has no mean loss");
  Decoder probe = detached_decoder(model.decoder());
  const auto num_layers = static_cast<int>(probe.num_layers());
  const int lowest = layers.front();
  const Context context = batch.context();

  std::vector<at::Tensor> inputs;  // inputs[l - lowest]: h_l (B, T, D)
  {
    const at::NoGradGuard no_grad;
    inputs.push_back(model.hidden(batch.input_ids, lowest, context));
    for (int l = lowest; l < num_layers; ++l) inputs.push_back(probe.layer(inputs.back(), l, context));
  }

  const at::AutoGradMode with_grad(true);
  const at::Tensor top = as_leaf(inputs.back());
  const at::Tensor loss = probe.loss_sum(top, batch.targets) / static_cast<double>(batch.num_targets);
  at::Tensor gradient = torch::autograd::grad({loss}, {top})[0];  // dL/dh_{l+1}
  for (int l = num_layers - 1; l >= lowest; --l) {
    const at::Tensor output = inputs.back();
    inputs.pop_back();
    const bool chosen = std::binary_search(layers.begin(), layers.end(), l);
    const at::Tensor h = l > lowest ? as_leaf(inputs.back()) : inputs.back();
    // Before the layers below are fetched, if nothing of this layer's pass is asked for.
    if (chosen && !with_parameters)
      visitor(
          {.layer = l, .parameters = {}, .gradients = {}, .input = h, .output = output, .output_gradient = gradient});
    std::vector<Parameter> parameters;
    const Layer stored = probe.weights().layers[static_cast<std::size_t>(l)];
    if (chosen && with_parameters) {
      if (probe.weights().source != nullptr) probe.weights().source->fetch(l, 0);
      parameters = as_leaves(probe, l);
    }
    std::vector<at::Tensor> wanted;
    for (const Parameter& p : parameters) wanted.push_back(*p.tensor);
    if (l > lowest) wanted.push_back(h);
    std::vector<at::Tensor> gradients;
    if (!wanted.empty()) gradients = torch::autograd::grad({probe.layer(h, l, context)}, wanted, {gradient});
    if (chosen && with_parameters)
      visitor({.layer = l,
               .parameters = parameters,
               .gradients = std::span(gradients).first(parameters.size()),
               .input = h,
               .output = output,
               .output_gradient = gradient});
    probe.weights().layers[static_cast<std::size_t>(l)] = stored;
    if (l > lowest) gradient = gradients.back();
  }
  return loss.item<double>();
}

}  // namespace

Decoder detached_decoder(const Decoder& decoder) {
  Weights weights = decoder.weights();
  for (const Parameter& p : named_parameters(decoder.config(), weights)) *p.tensor = p.tensor->detach();
  weights.embed_tokens = weights.embed_tokens.detached();
  weights.lm_head = decoder.config().tie_word_embeddings ? weights.embed_tokens : weights.lm_head.detached();
  return {decoder.config(), std::move(weights)};
}

double visit_layer_gradients(const FrozenPrefix& model, const Batch& batch, std::span<const int> layers,
                             const LayerGradientVisitor& visitor) {
  return visit(model, batch, layers, /*with_parameters=*/true, visitor);
}

double visit_output_gradients(const FrozenPrefix& model, const Batch& batch, std::span<const int> layers,
                              const LayerGradientVisitor& visitor) {
  return visit(model, batch, layers, /*with_parameters=*/false, visitor);
}

}  // namespace adept::model
