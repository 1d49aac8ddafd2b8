#include "adept/train/step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "adept/core/error.h"

namespace adept::train {

StepResult compute_gradients(const model::Decoder& decoder, Trainable& trainable,
                             std::span<const model::Batch> micro_batches) {
  StepResult result;
  for (const model::Batch& batch : micro_batches) result.num_targets += batch.num_targets;
  ADEPT_CHECK(result.num_targets > 0, "a global batch without a token to predict");
  const auto total = static_cast<double>(result.num_targets);
  trainable.zero_gradients();
  for (const model::Batch& batch : micro_batches) {
    const std::int64_t lowest = trainable.trains_embeddings() ? 0 : trainable.lowest_layer();
    at::Tensor h;  // (B, T, D)
    {
      const at::AutoGradMode with_grad(trainable.trains_embeddings());
      h = decoder.layers(decoder.embed(batch.input_ids), 0, lowest);
    }
    h = decoder.layers(h, lowest, decoder.num_layers());
    const at::Tensor loss = decoder.loss_sum(h, batch.targets) / total;
    h.reset();
    torch::autograd::backward({loss}, {});
    trainable.accumulate_gradients();
    result.loss += loss.item<double>();
  }
  result.grad_norm = optim::global_grad_norm(trainable.parameters());
  result.finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  return result;
}

StepResult train_step(const model::Decoder& decoder, Trainable& trainable, optim::AdamW& optimizer,
                      std::span<const model::Batch> micro_batches, const optim::ParameterRates& learning_rates,
                      double max_grad_norm) {
  const StepResult result = compute_gradients(decoder, trainable, micro_batches);
  if (!result.finite) return result;
  optimizer.step(learning_rates, optim::clip_factor(result.grad_norm, max_grad_norm));
  trainable.publish();
  return result;
}

}  // namespace adept::train
