// Legend: B sequences, T tokens, D hidden_size.
#include "adept/method/beyond/first_order_improvement.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "adept/core/error.h"
#include "adept/model/layer_gradients.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/stored.h"

namespace adept::method {
namespace {

// The process that keeps the gradients of a layer.
int keeper_of(int layer, const dist::ProcessGroup& group) { return layer % group.size(); }

// Mean gradients of one text for the copy after each layer, and the text's loss.
struct CopyGradients {
  std::vector<std::vector<at::Tensor>> layers;  // of the residual outputs, fp32; empty where another process keeps them
  double loss = 0;
  std::int64_t tokens = 0, sequences = 0;
};

// The gradients of the residual outputs of the potential copy after layer g.layer. `copies` is a decoder whose layers
// are such copies while they are needed.
std::vector<at::Tensor> gradients_of_copy(model::Decoder& copies, const model::LayerGradients& g,
                                          const model::Context& context) {
  const at::AutoGradMode with_grad(true);
  model::Layer& layer = copies.weights().layers[static_cast<std::size_t>(g.layer)];
  const model::Layer stored = layer;
  std::vector<at::Tensor> wanted;
  for (const model::Parameter& p : model::residual_outputs(copies.weights(), g.layer)) {
    *p.tensor = nn::leaf_of(nn::without_effect(*p.tensor, p.offset, copies.dtype()), copies.dtype());
    wanted.push_back(*p.tensor);
  }
  std::vector<at::Tensor> gradients =
      torch::autograd::grad({copies.layer(g.output.detach(), g.layer, context)}, wanted, {g.output_gradient});
  layer = stored;
  return gradients;
}

std::int64_t num_predicting(const model::Batch& batch) {
  return (batch.targets.values != nn::kIgnoreIndex).any(1).sum().item<std::int64_t>();
}

// The gradients of one text, which the processes compute batch by batch.
class GradientSum {
 public:
  GradientSum(const model::Decoder& decoder, std::span<const ProbeBatch> batches, const char* text,
              dist::ProcessGroup& group)
      : decoder_(decoder), copies_(model::detached_decoder(decoder)), group_(group) {
    const std::vector<double> factors = mean_factors(batches, text);
    for (std::size_t b = 0; b < batches.size(); ++b) {
      const model::Batch& batch = batches[b].batch;
      if (batch.num_targets > 0) items_.push_back({&batch, factors[b] * static_cast<double>(batch.num_targets)});
    }
    for (int l = 0; l < decoder.num_layers(); ++l) {
      layers_.push_back(l);
      result_.layers.emplace_back();
      if (keeper_of(l, group_) != group_.rank()) continue;
      for (const model::Parameter& p : model::residual_outputs(copies_.weights(), l))
        result_.layers.back().push_back(at::zeros(p.shape, at::TensorOptions(at::kFloat).device(decoder.device())));
    }
  }

  CopyGradients compute(const Tick& tick) {
    const auto size = static_cast<std::size_t>(group_.size());
    for (std::size_t begin = 0; begin < items_.size(); begin += size) {
      group_.throw_if_interrupted();
      add_round(std::span(items_).subspan(begin, std::min(size, items_.size() - begin)), tick);
    }
    return std::move(result_);
  }

 private:
  struct Item {
    const model::Batch* batch;
    double share;  // of its mean in that of the text
  };

  // A batch for each process, or none; where they share the layers, such a process repeats one for nothing.
  void add_round(std::span<const Item> round, const Tick& tick) {
    const auto rank = static_cast<std::size_t>(group_.rank());
    double loss = 0;
    if (rank < round.size() || decoder_.is_shared()) {
      const model::Batch& batch = *round[rank < round.size() ? rank : 0].batch;
      loss = model::visit_output_gradients(decoder_, batch, layers_, [&](const model::LayerGradients& g) {
        add(g.layer, round, gradients_of_copy(copies_, g, batch.context()));
      });
    } else {
      for (std::size_t l = layers_.size(); l-- > 0;) add(layers_[l], round, {});
    }
    const auto losses = group_.all_gather(std::vector<double>{loss});
    for (std::size_t i = 0; i < round.size(); ++i) {
      result_.loss += round[i].share * losses[i].front();
      result_.tokens += round[i].batch->num_targets;
      result_.sequences += num_predicting(*round[i].batch);
      tick(round[i].batch->num_positions());
    }
  }

  // All processes come to the same layer at the same time, so only its gradients of one batch are in memory.
  void add(int layer, std::span<const Item> round, const std::vector<at::Tensor>& own) {
    const at::NoGradGuard no_grad;
    const std::vector<model::Parameter> outputs = model::residual_outputs(copies_.weights(), layer);
    std::vector<at::Tensor>& sums = result_.layers[static_cast<std::size_t>(layer)];
    for (std::size_t i = 0; i < outputs.size(); ++i)
      for (std::size_t rank = 0; rank < round.size(); ++rank) {
        const auto options = at::TensorOptions(at::kFloat).device(decoder_.device());
        const bool is_own = rank == static_cast<std::size_t>(group_.rank());
        const at::Tensor gradient = is_own ? own[i].to(at::kFloat).contiguous() : at::empty(outputs[i].shape, options);
        group_.broadcast(gradient, static_cast<int>(rank));
        if (!sums.empty()) sums[i].add_(gradient, round[rank].share);
      }
  }

  const model::Decoder& decoder_;
  model::Decoder copies_;
  dist::ProcessGroup& group_;
  std::vector<Item> items_;
  std::vector<int> layers_;
  CopyGradients result_;
};

double sum_of(const at::Tensor& tensor) { return tensor.sum(at::kDouble).item<double>(); }

// Sums over the gradients of a layer.
struct LayerSums {
  double l1 = 0, general_change = 0, domain_squares = 0, general_squares = 0, product = 0;
};

LayerSums layer_sums(const std::vector<at::Tensor>& domain, const std::vector<at::Tensor>& general) {
  LayerSums sums;
  for (std::size_t i = 0; i < domain.size(); ++i) {
    const at::Tensor &a = domain[i], &b = general[i];
    sums.l1 += sum_of(a.abs());
    sums.general_change -= sum_of(a.sign() * b);
    sums.domain_squares += sum_of(a.square());
    sums.general_squares += sum_of(b.square());
    sums.product += sum_of(a * b);
  }
  return sums;
}

// Of every layer, each from the process that keeps its gradients.
std::vector<LayerSums> all_layer_sums(const CopyGradients& domain, const CopyGradients& general,
                                      dist::ProcessGroup& group) {
  constexpr std::size_t kWidth = 5;
  std::vector<double> own;
  for (std::size_t l = 0; l < domain.layers.size(); ++l) {
    const auto [l1, general_change, domain_squares, general_squares, product] =
        layer_sums(domain.layers[l], general.layers[l]);
    own.insert(own.end(), {l1, general_change, domain_squares, general_squares, product});
  }
  const std::vector<std::vector<double>> all = group.all_gather(own);
  std::vector<LayerSums> sums;
  for (std::size_t l = 0; l < domain.layers.size(); ++l) {
    const double* n = &all[static_cast<std::size_t>(keeper_of(static_cast<int>(l), group))][l * kWidth];
    sums.push_back({n[0], n[1], n[2], n[3], n[4]});
  }
  return sums;
}

}  // namespace

Importance first_order_improvement(const model::Decoder& decoder, std::span<const ProbeBatch> general,
                                   std::span<const ProbeBatch> domain, const Tick& tick, dist::ProcessGroup& group) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const CopyGradients d = GradientSum(decoder, domain, "domain text", group).compute(tick);
  const CopyGradients q = GradientSum(decoder, general, "general text", group).compute(tick);
  Importance importance{.method = kFirstOrderImprovement,
                        .model = {},
                        .baseline_loss = d.loss,
                        .tokens = d.tokens,
                        .sequences = d.sequences,
                        .layers = {},
                        .stability = {},
                        .separation = {}};
  for (const LayerSums& sums : all_layer_sums(d, q, group)) {
    const auto& [l1, general_change, domain_squares, general_squares, product] = sums;
    const std::size_t l = importance.layers.size();
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
