#include "adept/plan/step_memory.h"

#include <algorithm>
#include <iterator>

#include "adept/nn/cross_entropy.h"
#include "adept/optim/shard.h"

namespace adept::plan {
namespace {

double bytes_of_gradient(const at::Tensor& weight) {
  return weight.requires_grad() ? 4.0 * static_cast<double>(weight.numel()) : 0;
}

// Of optim::gather, for leaves that every rank has: the parts of all ranks and the own one, of at least one tensor.
double gather_bytes(const Layout& layout) {
  if (layout.ranks() == 1) return 0;
  const train::Trainable& trainable = layout.trainable();
  std::int64_t all = 0, most = 0;
  for (std::size_t i = 0; i < trainable.leaves().size(); ++i) {
    if (trainable.is_divided(i)) continue;
    const auto bytes = static_cast<std::int64_t>(trainable.leaves()[i].nbytes());
    all += bytes;
    most = std::max(most, bytes);
  }
  most = std::max(most, std::min(optim::kGatheredBytes, all));
  return static_cast<double>(most) * (1 + 1 / static_cast<double>(layout.ranks()));
}

// Of a layer whose gradients are scattered, beside them: as they are sent, and as they are received.
double scattered_bytes(const Layout& layout, std::int64_t layer) {
  return layout.bytes_scattered() == 0 ? 0 : 2 * 4.0 * static_cast<double>(layout.trained(layer));
}

}  // namespace

train::MemoryUse memory_of(const Layout& layout, const Costs& costs, std::int64_t tokens, std::int64_t micro_batches) {
  const auto n = static_cast<double>(tokens);
  const double all_gradients = 4.0 * static_cast<double>(layout.all_kept_gradients());
  double kept = 0, peak = 0;
  double gradients = micro_batches > 1 ? all_gradients : 0;  // of the micro-batches before
  const auto at_peak = [&](double bytes) { peak = std::max(peak, kept + gradients + bytes); };
  for (const PartCost& layer : costs.layers) {
    at_peak(layer.forward * n + layer.fixed);
    kept += layer.kept * n;
  }
  // The gradient of a trained head exists with the loss.
  const model::Weights& weights = layout.decoder().weights();
  kept += costs.head.kept * n + bytes_of_gradient(weights.lm_head.weight);
  const auto chunk = static_cast<double>(nn::head_chunk_tokens(tokens, layout.decoder().config().vocab_size));
  at_peak(costs.head.forward * n + costs.head.chunk * chunk + costs.head.fixed);
  const double activations = kept;
  at_peak(costs.head.backward * n);
  kept -= costs.head.kept * n;
  for (std::int64_t l = std::ssize(costs.layers); l-- > 0;) {
    const PartCost& layer = costs.layers[static_cast<std::size_t>(l)];
    if (layout.use(l) == Use::kWithoutGraph) continue;
    at_peak(layer.backward * n + layer.fixed + scattered_bytes(layout, l));
    kept -= layer.kept * n;
    if (micro_batches == 1) gradients += 4.0 * static_cast<double>(layout.kept_gradients(l));
  }
  // A tied matrix has a second gradient, which is added to the head's.
  at_peak(bytes_of_gradient(weights.embed_tokens.weight));
  peak = std::max(peak, all_gradients + gather_bytes(layout));
  train::StepResult step;
  step.activation_bytes = static_cast<std::int64_t>(activations);
  step.gradient_bytes = static_cast<std::int64_t>(all_gradients);
  return train::step_memory(layout.resident(), step, micro_batches, static_cast<std::int64_t>(peak));
}

}  // namespace adept::plan
