#include "adept/plan/step_memory.h"

#include <algorithm>
#include <iterator>

#include "adept/nn/cross_entropy.h"

namespace adept::plan {
namespace {

double bytes_of_gradient(const at::Tensor& weight) {
  return weight.requires_grad() ? 4.0 * static_cast<double>(weight.numel()) : 0;
}

}  // namespace

train::MemoryUse memory_of(const Layout& layout, const Costs& costs, const Communication& communication,
                           std::int64_t tokens, std::int64_t micro_batches) {
  const Buffers buffers(layout, communication);
  const auto n = static_cast<double>(tokens);
  const double all_gradients = 4.0 * static_cast<double>(layout.all_kept_gradients());
  double kept = 0, peak = 0;
  double gradients = micro_batches > 1 ? all_gradients : 0;  // of the micro-batches before
  const auto at_peak = [&](double bytes) { peak = std::max(peak, kept + gradients + bytes); };
  for (std::int64_t l = 0; l < std::ssize(costs.layers); ++l) {
    const PartCost& layer = costs.layers[static_cast<std::size_t>(l)];
    at_peak(layer.forward * n + layer.fixed + buffers.of_gathered_layer(l, /*is_backward=*/false));
    kept += layer.kept * n;
  }
  // The gradient of a trained head exists with the loss.
  const model::Weights& weights = layout.decoder().weights();
  kept += costs.head.kept * n + bytes_of_gradient(weights.lm_head.weight);
  const auto chunk = static_cast<double>(nn::head_chunk_tokens(tokens, layout.decoder().config().vocab_size));
  at_peak(costs.head.forward * n + costs.head.chunk * chunk + costs.head.fixed);
  const double activations = kept;
  kept += buffers.of_sent_gradients(Layout::kOutside);
  at_peak(costs.head.backward * n);
  kept -= costs.head.kept * n;
  double in_exchange = 0;  // gradients of the layer above
  for (std::int64_t l = std::ssize(costs.layers); l-- > 0;) {
    const PartCost& layer = costs.layers[static_cast<std::size_t>(l)];
    if (layout.use(l) == Use::kWithoutGraph) continue;
    at_peak(layer.backward * n + layer.fixed + in_exchange + buffers.of_gathered_layer(l, /*is_backward=*/true));
    in_exchange = buffers.of_scattered_gradients(l);
    kept += buffers.of_sent_gradients(l) - layer.kept * n;
    gradients += micro_batches == 1 ? 4.0 * static_cast<double>(layout.kept_gradients(l)) : buffers.of_sums(l);
  }
  // A tied matrix has a second gradient, which is added to the head's.
  at_peak(bytes_of_gradient(weights.embed_tokens.weight));
  at_peak(in_exchange);
  peak = std::max(peak, all_gradients + buffers.of_all_sums() + buffers.of_gathered_gradients());
  peak = std::max(peak, all_gradients + buffers.of_weights());
  train::StepResult step;
  step.activation_bytes = static_cast<std::int64_t>(activations);
  step.gradient_bytes = static_cast<std::int64_t>(all_gradients);
  return train::step_memory(layout.resident(), step, micro_batches, static_cast<std::int64_t>(peak));
}

}  // namespace adept::plan
