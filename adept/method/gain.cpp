// Legend: B sequences, T tokens, D hidden_size.
#include "adept/method/gain.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <numeric>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/method/expansion.h"
#include "adept/method/layer_gradients.h"
#include "adept/nn/cross_entropy.h"

namespace adept::method {
namespace {

// Mean gradients of one text for the copy behind each layer, and the text's loss.
struct CopyGradients {
  std::vector<std::vector<at::Tensor>> layers;  // of the residual outputs, fp32
  double loss = 0;
  std::int64_t tokens = 0, sequences = 0;
};

// A decoder whose layer l is the copy that would stand behind layer l.
model::Decoder copies_of_layers(const model::Decoder& decoder) {
  model::Decoder copies = detached_decoder(decoder);
  for (std::int64_t l = 0; l < copies.num_layers(); ++l)
    for (const model::Parameter& p : model::residual_outputs(copies.weights(), l))
      *p.tensor =
          at::full_like(*p.tensor, 0 - p.offset, p.tensor->options().dtype(decoder.dtype())).set_requires_grad(true);
  return copies;
}

std::map<int, double> tokens_of_sources(const std::vector<ProbeBatch>& batches, const char* what) {
  std::map<int, double> tokens;
  for (const auto& [batch, source, weight] : batches)
    if (batch.num_targets > 0) tokens[source] += static_cast<double>(batch.num_targets);
  if (tokens.empty())
    throw DataError("{} text: found no token to predict; expected documents of at least two tokens.", what);
  return tokens;
}

CopyGradients copy_gradients(const model::Decoder& decoder, const std::vector<ProbeBatch>& batches, const char* what,
                             const Tick& tick) {
  model::Decoder copies = copies_of_layers(decoder);
  const std::map<int, double> tokens = tokens_of_sources(batches, what);
  const std::map<int, double> shares = source_shares(batches);
  std::vector<int> layers(static_cast<std::size_t>(decoder.num_layers()));
  std::iota(layers.begin(), layers.end(), 0);
  CopyGradients result;
  for (const int l : layers) {
    result.layers.emplace_back();
    for (const model::Parameter& p : model::residual_outputs(copies.weights(), l))
      result.layers.back().push_back(at::zeros(p.shape, p.tensor->options().dtype(at::kFloat).requires_grad(false)));
  }
  for (const auto& [batch, source, weight] : batches) {
    throw_if_interrupted();
    if (batch.num_targets == 0) continue;
    const double share = shares.at(source) * static_cast<double>(batch.num_targets) / tokens.at(source);
    result.loss += share * visit_output_gradients(decoder, batch, layers, [&](const LayerGradients& g) {
                     const auto l = static_cast<std::size_t>(g.layer);
                     std::vector<at::Tensor> wanted;
                     for (const model::Parameter& p : model::residual_outputs(copies.weights(), g.layer))
                       wanted.push_back(*p.tensor);
                     const at::AutoGradMode with_grad(true);
                     const auto gradients = torch::autograd::grad(
                         {copies.layer(g.output.detach(), g.layer, batch.context())}, wanted, {g.output_gradient});
                     for (std::size_t i = 0; i < wanted.size(); ++i)
                       result.layers[l][i].add_(gradients[i].to(at::kFloat), share);
                   });
    result.tokens += batch.num_targets;
    result.sequences += (batch.targets != nn::kIgnoreIndex).any(1).sum().item<std::int64_t>();
    tick(batch.num_positions());
  }
  return result;
}

double sum_of(const at::Tensor& tensor) { return tensor.sum(at::kDouble).item<double>(); }

}  // namespace

Gain expansion_gain(const model::Decoder& decoder, const std::vector<ProbeBatch>& domain,
                    const std::vector<ProbeBatch>& general, Progress& progress) {
  std::int64_t done = 0, positions = 0;
  const Tick tick = [&](std::int64_t more) { progress.update(++done, positions += more); };
  const CopyGradients d = copy_gradients(decoder, domain, "domain", tick);
  const CopyGradients q = copy_gradients(decoder, general, "general", tick);
  Gain gain{.domain_loss = d.loss,
            .general_loss = q.loss,
            .domain_tokens = d.tokens,
            .general_tokens = q.tokens,
            .domain_sequences = d.sequences,
            .general_sequences = q.sequences,
            .layers = {}};
  for (std::size_t l = 0; l < d.layers.size(); ++l) {
    LayerGain layer;
    double domain_squares = 0, general_squares = 0, product = 0;
    for (std::size_t i = 0; i < d.layers[l].size(); ++i) {
      const at::Tensor& a = d.layers[l][i];
      const at::Tensor& b = q.layers[l][i];
      layer.l1 += sum_of(a.abs());
      layer.general_change -= sum_of(a.sign() * b);
      domain_squares += sum_of(a.square());
      general_squares += sum_of(b.square());
      product += sum_of(a * b);
    }
    layer.l2 = std::sqrt(domain_squares);
    if (const double norms = std::sqrt(domain_squares * general_squares); norms > 0) layer.cosine = product / norms;
    if (!std::isfinite(layer.l1) || !std::isfinite(general_squares))
      throw NonFiniteError(fmt::format(
          "gain of a copy behind layer {}: a gradient is not finite; look at the model's weights and the text.", l));
    gain.layers.push_back(layer);
  }
  return gain;
}

}  // namespace adept::method
