// Legend: B sequences, T tokens, D hidden_size.
#include "adept/method/beyond/first_order_improvement.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/model/layer_gradients.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/stored.h"

namespace adept::method {
namespace {

// Mean gradients of one text for the copy after each layer, and the text's loss.
struct CopyGradients {
  std::vector<std::vector<at::Tensor>> layers;  // of the residual outputs, fp32
  double loss = 0;
  std::int64_t tokens = 0, sequences = 0;
};

// A decoder whose layer l is the potential copy after layer l.
model::Decoder copies_of_layers(const model::Decoder& decoder) {
  model::Decoder copies = model::detached_decoder(decoder);
  for (std::int64_t l = 0; l < copies.num_layers(); ++l)
    for (const model::Parameter& p : model::residual_outputs(copies.weights(), l))
      *p.tensor = nn::leaf_of(nn::without_effect(*p.tensor, p.offset, decoder.dtype()), decoder.dtype());
  return copies;
}

CopyGradients copy_gradients(const model::Decoder& decoder, std::span<const ProbeBatch> batches, const char* text,
                             const Tick& tick) {
  model::Decoder copies = copies_of_layers(decoder);
  const std::vector<double> factors = mean_factors(batches, text);
  std::vector<int> layers(static_cast<std::size_t>(decoder.num_layers()));
  std::iota(layers.begin(), layers.end(), 0);
  CopyGradients result;
  for (const int l : layers) {
    result.layers.emplace_back();
    for (const model::Parameter& p : model::residual_outputs(copies.weights(), l))
      result.layers.back().push_back(at::zeros(p.shape, at::TensorOptions(at::kFloat).device(decoder.device())));
  }
  for (std::size_t b = 0; b < batches.size(); ++b) {
    throw_if_interrupted();
    const model::Batch& batch = batches[b].batch;
    if (batch.num_targets == 0) continue;
    const model::Context context = batch.context();
    const double share = factors[b] * static_cast<double>(batch.num_targets);
    result.loss += share * model::visit_output_gradients(decoder, batch, layers, [&](const model::LayerGradients& g) {
                     const auto l = static_cast<std::size_t>(g.layer);
                     std::vector<at::Tensor> wanted;
                     for (const model::Parameter& p : model::residual_outputs(copies.weights(), g.layer))
                       wanted.push_back(*p.tensor);
                     const at::AutoGradMode with_grad(true);
                     const auto gradients = torch::autograd::grad({copies.layer(g.output.detach(), g.layer, context)},
                                                                  wanted, {g.output_gradient});
                     for (std::size_t i = 0; i < wanted.size(); ++i)
                       result.layers[l][i].add_(gradients[i].to(at::kFloat), share);
                   });
    result.tokens += batch.num_targets;
    result.sequences += (batch.targets.values != nn::kIgnoreIndex).any(1).sum().item<std::int64_t>();
    tick(batch.num_positions());
  }
  return result;
}

double sum_of(const at::Tensor& tensor) { return tensor.sum(at::kDouble).item<double>(); }

}  // namespace

Importance first_order_improvement(const model::Decoder& decoder, std::span<const ProbeBatch> general,
                                   std::span<const ProbeBatch> domain, const Tick& tick) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const CopyGradients d = copy_gradients(decoder, domain, "domain text", tick);
  const CopyGradients q = copy_gradients(decoder, general, "general text", tick);
  Importance importance{.method = kFirstOrderImprovement,
                        .model = {},
                        .baseline_loss = d.loss,
                        .tokens = d.tokens,
                        .sequences = d.sequences,
                        .layers = {},
                        .stability = {},
                        .separation = {}};
  for (std::size_t l = 0; l < d.layers.size(); ++l) {
    double l1 = 0, general_change = 0, domain_squares = 0, general_squares = 0, product = 0;
    for (std::size_t i = 0; i < d.layers[l].size(); ++i) {
      const at::Tensor& a = d.layers[l][i];
      const at::Tensor& b = q.layers[l][i];
      l1 += sum_of(a.abs());
      general_change -= sum_of(a.sign() * b);
      domain_squares += sum_of(a.square());
      general_squares += sum_of(b.square());
      product += sum_of(a * b);
    }
    if (!std::isfinite(l1) || !std::isfinite(general_squares))
      throw NonFiniteError(fmt::format(
          "improvement by a copy after layer {}: a gradient is not finite; check the model's weights and the text.",
          l));
    const double norms = std::sqrt(domain_squares * general_squares);
    importance.layers.push_back(
        {.index = static_cast<int>(l),
         .score = l1,
         .ci95 = {-infinity, infinity},
         .figures = {l1, std::sqrt(domain_squares), general_change, norms > 0 ? product / norms : 0}});
  }
  normalize_and_rank(importance.layers);
  return importance;
}

}  // namespace adept::method
