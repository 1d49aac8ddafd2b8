// Legend: B sequences, T tokens, D hidden_size.
#include "adept/method/beyond/first_order_improvement.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
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

std::int64_t num_predicting(const model::Batch& batch) {
  return (batch.targets.values != nn::kIgnoreIndex).any(1).sum().item<std::int64_t>();
}

// The gradients of one text, which the processes compute batch by batch.
class GradientSum {
 public:
  GradientSum(const model::Decoder& decoder, std::span<const ProbeBatch> batches, const char* text,
              dist::ProcessGroup& group)
      : decoder_(decoder), copies_(copies_of_layers(decoder)), group_(group) {
    const std::vector<double> factors = mean_factors(batches, text);
    for (std::size_t b = 0; b < batches.size(); ++b) {
      const model::Batch& batch = batches[b].batch;
      if (batch.num_targets > 0) items_.push_back({&batch, factors[b] * static_cast<double>(batch.num_targets)});
    }
    for (int l = 0; l < decoder.num_layers(); ++l) {
      layers_.push_back(l);
      result_.layers.emplace_back();
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

  // A batch for each process, or none.
  void add_round(std::span<const Item> round, const Tick& tick) {
    const auto rank = static_cast<std::size_t>(group_.rank());
    double loss = 0;
    if (rank < round.size()) {
      const model::Batch& batch = *round[rank].batch;
      loss = model::visit_output_gradients(decoder_, batch, layers_, [&](const model::LayerGradients& g) {
        std::vector<at::Tensor> wanted;
        for (const model::Parameter& p : model::residual_outputs(copies_.weights(), g.layer))
          wanted.push_back(*p.tensor);
        const at::AutoGradMode with_grad(true);
        add(g.layer, round,
            torch::autograd::grad({copies_.layer(g.output.detach(), g.layer, batch.context())}, wanted,
                                  {g.output_gradient}));
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
    std::vector<at::Tensor>& sums = result_.layers[static_cast<std::size_t>(layer)];
    for (std::size_t i = 0; i < sums.size(); ++i)
      for (std::size_t rank = 0; rank < round.size(); ++rank) {
        const bool is_own = rank == static_cast<std::size_t>(group_.rank());
        const at::Tensor gradient = is_own ? own[i].to(at::kFloat).contiguous() : at::empty_like(sums[i]);
        group_.broadcast(gradient, static_cast<int>(rank));
        sums[i].add_(gradient, round[rank].share);
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
