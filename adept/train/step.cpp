#include "adept/train/step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "adept/core/error.h"
#include "adept/nn/allocator.h"
#include "adept/nn/kernels.h"

namespace adept::train {
namespace {

at::Tensor through_layers(const model::Decoder& decoder, at::Tensor h, std::int64_t lowest,
                          const model::Context& context, ActivationCheckpointing checkpointing) {
  if (checkpointing == ActivationCheckpointing::kNone) return decoder.layers(h, lowest, decoder.num_layers(), context);
  for (std::int64_t l = lowest; l < decoder.num_layers(); ++l) {
    h = decoder.checkpointed_layer(h, l, /*whole=*/checkpointing == ActivationCheckpointing::kFull, context);
  }
  return h;
}

struct Losses {
  at::Tensor sum;   // of a micro-batch, (), with the graph of trained tensors
  at::Tensor rows;  // (B) fp64, without a graph
};

Losses losses_of(const model::FrozenPrefix& model, const Trainable& trainable, const model::Batch& batch,
                 ActivationCheckpointing checkpointing) {
  const model::Decoder& decoder = model.decoder();
  const model::Context context = batch.context();
  const bool from_embeddings =
      trainable.trains_embeddings() || decoder.weights().embed_tokens.trains_any_of(batch.input_ids);
  const std::int64_t lowest = from_embeddings ? 0 : trainable.lowest_layer();
  const at::Tensor h =
      from_embeddings ? decoder.embed(batch.input_ids) : model.hidden(batch.input_ids, lowest, context);  // (B, T, D)
  at::Tensor token_losses;
  const at::Tensor sum =
      decoder.loss_sum(through_layers(decoder, h, lowest, context, checkpointing), batch.targets, &token_losses);
  return {sum, token_losses.sum(1, /*keepdim=*/false, at::kDouble)};
}

// What a step tells the host, on the device that computes it. It is read once, when everything before the update is on
// its way: the gradient norm decides whether there is an update.
class Readings {
 public:
  // `loss` (), the share of a micro-batch in that of the step; `rows` (B) fp64.
  void add(const at::Tensor& loss, const at::Tensor& rows) {
    losses_.push_back(loss.detach().to(at::kDouble).view({1}));
    rows_.push_back(rows);
  }

  // Waits for the device.
  void read(const at::Tensor& squared_grad_norm, StepResult& result) const {
    std::vector<at::Tensor> all = {squared_grad_norm.view({1})};
    all.insert(all.end(), losses_.begin(), losses_.end());
    all.insert(all.end(), rows_.begin(), rows_.end());
    const at::Tensor host = at::cat(all).to(at::kCPU);
    const std::span values(host.const_data_ptr<double>(), static_cast<std::size_t>(host.numel()));
    result.grad_norm = std::sqrt(values[0]);
    for (const double loss : values.subspan(1, losses_.size())) result.loss += loss;
    const std::span<const double> of_rows = values.subspan(1 + losses_.size());
    result.sequence_losses.assign(of_rows.begin(), of_rows.end());
  }

 private:
  std::vector<at::Tensor> losses_, rows_;
};

}  // namespace

std::vector<model::Batch> to_micro_batches(std::span<const data::Sequence> sequences, std::int64_t batch_size,
                                           at::Device device) {
  std::vector<model::Batch> batches;
  for (std::size_t begin = 0; begin < sequences.size(); begin += static_cast<std::size_t>(batch_size)) {
    const std::size_t count = std::min(sequences.size() - begin, static_cast<std::size_t>(batch_size));
    batches.push_back(model::to_batch(data::make_batch(sequences.subspan(begin, count)), device));
  }
  return batches;
}

StepResult compute_gradients(const model::FrozenPrefix& model, Trainable& trainable,
                             std::span<const model::Batch> micro_batches, ActivationCheckpointing checkpointing) {
  StepResult result;
  for (const model::Batch& batch : micro_batches) result.num_targets += batch.num_targets;
  ADEPT_CHECK(result.num_targets > 0, "a global batch without a token to predict");
  const auto total = static_cast<double>(result.num_targets);
  trainable.drop_gradients();
  Readings readings;
  for (const model::Batch& batch : micro_batches) {
    const auto bytes_kept = [&] {  // kernel buffers do not belong to the graph
      return nn::tensor_memory(model.decoder().device()).in_use - nn::thread_workspace_bytes();
    };
    const std::int64_t before = bytes_kept();
    const Losses losses = losses_of(model, trainable, batch, checkpointing);
    const at::Tensor loss = losses.sum / total;
    result.activation_bytes = std::max(result.activation_bytes, bytes_kept() - before);
    torch::autograd::backward({loss}, {});
    trainable.collect_gradients();
    readings.add(loss, losses.rows);
  }
  readings.read(optim::squared_grad_norm(trainable.gradients()), result);
  for (const at::Tensor& grad : trainable.gradients())
    result.gradient_bytes += static_cast<std::int64_t>(grad.nbytes());
  result.finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  return result;
}

StepResult train_step(const model::FrozenPrefix& model, Trainable& trainable, optim::AdamW& optimizer,
                      std::span<const model::Batch> micro_batches, const optim::ParameterRates& learning_rates,
                      double max_grad_norm, ActivationCheckpointing checkpointing) {
  const auto has_targets = [](const model::Batch& batch) { return batch.num_targets > 0; };
  if (std::none_of(micro_batches.begin(), micro_batches.end(), has_targets)) return {};  // documents of one token each
  const StepResult result = compute_gradients(model, trainable, micro_batches, checkpointing);
  if (result.finite) {
    optimizer.step(trainable.gradients(), learning_rates, optim::clip_factor(result.grad_norm, max_grad_norm));
    trainable.publish();
  }
  trainable.drop_gradients();
  return result;
}

}  // namespace adept::train
