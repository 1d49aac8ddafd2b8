#include "adept/train/step.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "adept/core/error.h"
#include "adept/nn/allocator.h"
#include "adept/nn/kernels.h"
#include "adept/train/gradient_exchange.h"
#include "adept/train/gradient_norm.h"
#include "adept/train/verification.h"

namespace adept::train {
namespace {

struct Losses {
  at::Tensor sum;   // of a micro-batch, (), with the graph of trained tensors
  at::Tensor rows;  // (B) fp64, without a graph
};

Losses losses_of(const model::FrozenPrefix& model, const Trainable& trainable, const model::Batch& batch,
                 ActivationCheckpointing checkpointing) {
  const model::Decoder& decoder = model.decoder();
  const model::Context context = batch.context();
  // Ranks that share layers must go through the same ones, whatever their tokens are.
  const bool is_shared = decoder.is_shared();
  const nn::Embedding& embed_tokens = decoder.weights().embed_tokens;
  const bool trains_rows = is_shared ? embed_tokens.trained.any() : embed_tokens.trains_any_of(batch.input_ids);
  const bool from_embeddings = trainable.trains_embeddings() || trains_rows;
  const std::int64_t lowest = from_embeddings ? 0 : trainable.lowest_layer();
  at::Tensor h =
      from_embeddings ? decoder.embed(batch.input_ids) : model.hidden(batch.input_ids, lowest, context);  // (B, T, D)
  if (from_embeddings && is_shared && !h.requires_grad()) h.requires_grad_();
  at::Tensor token_losses;
  const at::Tensor sum =
      decoder.loss_sum(through_layers(decoder, h, lowest, context, checkpointing), batch.targets, &token_losses);
  return {sum, token_losses.sum(1, /*keepdim=*/false, at::kDouble)};
}

bool is_own(std::size_t micro_batch, const dist::ProcessGroup& group) {
  return micro_batch % static_cast<std::size_t>(group.size()) == static_cast<std::size_t>(group.rank());
}

// What a step tells the host, on the device that computes it. It is read once, when everything before the update is on
// its way: the gradient norm decides whether there is an update.
class Readings {
 public:
  // `loss` (), the share of a micro-batch in that of the step; `rows` (B) fp64.
  void add(const at::Tensor& loss, const at::Tensor& rows) {
    parts_.push_back(loss.detach().to(at::kDouble).view({1}));
    parts_.push_back(rows);
  }

  // Waits for the device, then for the other ranks: their losses, and the norm of rank 0, which decides for all.
  void read(const GradientNorm& norm, std::span<const model::Batch> micro_batches, dist::ProcessGroup& group,
            StepResult& result) const {
    std::vector<at::Tensor> all = {norm.own()};
    all.insert(all.end(), parts_.begin(), parts_.end());
    const at::Tensor host = at::cat(all).to(at::kCPU);
    const auto* own = host.const_data_ptr<double>();
    std::vector<double> numbers(own, own + norm.count());  // then of every micro-batch: zeros for those of others
    own += norm.count();
    for (std::size_t m = 0; m < micro_batches.size(); ++m) {
      const auto count = static_cast<std::size_t>(1 + micro_batches[m].rows());
      if (is_own(m, group))
        numbers.insert(numbers.end(), own, own + count);
      else
        numbers.resize(numbers.size() + count);
      if (is_own(m, group)) own += count;
    }
    const auto of_ranks = group.all_gather(numbers);
    result.grad_norm = std::sqrt(norm.squared(of_ranks));
    std::size_t next = norm.count();
    for (std::size_t m = 0; m < micro_batches.size(); ++m) {
      const std::vector<double>& of_owner = of_ranks[m % of_ranks.size()];
      result.loss += of_owner[next++];
      const auto rows = static_cast<std::size_t>(micro_batches[m].rows());
      for (const double loss : std::span(of_owner).subspan(next, rows)) result.sequence_losses.push_back(loss);
      next += rows;
    }
  }

 private:
  std::vector<at::Tensor> parts_;
};

}  // namespace

at::Tensor through_layers(const model::Decoder& decoder, at::Tensor h, std::int64_t lowest,
                          const model::Context& context, ActivationCheckpointing checkpointing) {
  if (checkpointing == ActivationCheckpointing::kNone) return decoder.layers(h, lowest, decoder.num_layers(), context);
  for (std::int64_t l = lowest; l < decoder.num_layers(); ++l) {
    h = decoder.checkpointed_layer(h, l, /*whole=*/checkpointing == ActivationCheckpointing::kFull, context);
  }
  return h;
}

std::vector<model::Batch> to_micro_batches(std::span<const data::Sequence> sequences, std::int64_t batch_size,
                                           at::Device device) {
  std::vector<model::Batch> batches;
  for (std::size_t begin = 0; begin < sequences.size(); begin += static_cast<std::size_t>(batch_size)) {
    const std::size_t count = std::min(sequences.size() - begin, static_cast<std::size_t>(batch_size));
    batches.push_back(model::to_batch(data::make_batch(sequences.subspan(begin, count)), device));
  }
  return batches;
}

namespace {

// `record` is null unless the computation is verified: then gradients are not sent before they are recorded.
StepResult compute_once(const model::FrozenPrefix& model, Trainable& trainable,
                        std::span<const model::Batch> micro_batches, ActivationCheckpointing checkpointing,
                        const StepDivision& division, GradientRecord* record) {
  dist::ProcessGroup& group = *division.group;
  StepResult result;
  for (const model::Batch& batch : micro_batches) result.num_targets += batch.num_targets;
  ADEPT_CHECK(result.num_targets > 0, "a global batch without a token to predict");
  const auto total = static_cast<double>(result.num_targets);
  trainable.drop_gradients();
  Readings readings;
  GradientScatter::OnSent on_sent;
  if (record != nullptr) on_sent = [&](std::size_t i, const at::Tensor& gradient) { record->add_sent(i, gradient); };
  GradientExchange exchange(trainable, group, division.deterministic, on_sent);
  const auto size = static_cast<std::size_t>(group.size()), rank = static_cast<std::size_t>(group.rank());
  // A rank without a micro-batch in the last round repeats one, for nothing, where others need its part of the layers.
  const bool is_shared = model.decoder().is_shared();
  for (std::size_t begin = 0; begin < micro_batches.size(); begin += size) {  // a round
    const std::size_t m = begin + rank;
    const bool has_own = m < micro_batches.size();
    if (has_own || is_shared) {
      const model::Batch& batch = has_own ? micro_batches[m] : micro_batches.back();
      if (division.seed) at::manual_seed(*division.seed + m);
      const auto bytes_kept = [&] {  // kernel buffers do not belong to the graph
        return nn::tensor_memory(model.decoder().device()).in_use - nn::thread_workspace_bytes();
      };
      const std::int64_t before = bytes_kept();
      const Losses losses = losses_of(model, trainable, batch, checkpointing);
      const at::Tensor loss = has_own ? losses.sum / total : losses.sum * 0.0;
      result.activation_bytes = std::max(result.activation_bytes, bytes_kept() - before);
      const bool is_last = (is_shared ? begin : m) + size >= micro_batches.size();
      exchange.begin_pass(static_cast<int>(std::min(size, micro_batches.size() - begin)), is_last && record == nullptr);
      torch::autograd::backward({loss}, {});
      exchange.end_pass();
      if (has_own && record != nullptr)
        record->add(fmt::format("micro-batch {} of {}", m + 1, micro_batches.size()), loss);
      if (has_own) readings.add(loss, losses.rows);
    }
    exchange.end_round(has_own);
  }
  exchange.finish();
  readings.read(GradientNorm(trainable, group.size()), micro_batches, group, result);
  for (const at::Tensor& grad : trainable.gradients())
    result.gradient_bytes += static_cast<std::int64_t>(grad.nbytes());
  result.finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  if (record != nullptr) record->finish(result.loss);
  return result;
}

// ATen's kernels that give the same bits each time; where it has none, it warns. Those of a CPU do so anyway.
class DeterministicKernels {
 public:
  explicit DeterministicKernels(at::Device device) : is_set_(!device.is_cpu()) {
    if (is_set_) at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  }
  ~DeterministicKernels() {
    if (is_set_) at::globalContext().setDeterministicAlgorithms(was_set_, only_warned_);
  }
  DeterministicKernels(const DeterministicKernels&) = delete;
  DeterministicKernels& operator=(const DeterministicKernels&) = delete;

 private:
  bool is_set_;
  bool was_set_ = at::globalContext().deterministicAlgorithms();
  bool only_warned_ = at::globalContext().deterministicAlgorithmsWarnOnly();
};

}  // namespace

StepResult compute_gradients(const model::FrozenPrefix& model, Trainable& trainable,
                             std::span<const model::Batch> micro_batches, ActivationCheckpointing checkpointing,
                             const StepDivision& division) {
  if (!division.is_verified)
    return compute_once(model, trainable, micro_batches, checkpointing, division, /*record=*/nullptr);
  const DeterministicKernels same_bits(model.decoder().device());
  GradientRecord first(trainable), second(trainable);
  compute_once(model.decoder(), trainable, micro_batches, checkpointing, division, &first);
  StepResult result = compute_once(model, trainable, micro_batches, checkpointing, division, &second);
  result.difference = difference_of(first, second, *division.group);
  return result;
}

StepResult train_step(const model::FrozenPrefix& model, Trainable& trainable, optim::AdamW& optimizer,
                      std::span<const model::Batch> micro_batches, const optim::ParameterRates& learning_rates,
                      double max_grad_norm, ActivationCheckpointing checkpointing, const StepDivision& division) {
  const auto has_targets = [](const model::Batch& batch) { return batch.num_targets > 0; };
  if (std::none_of(micro_batches.begin(), micro_batches.end(), has_targets)) return {};  // documents of one token each
  const StepResult result = compute_gradients(model, trainable, micro_batches, checkpointing, division);
  if (result.finite && result.difference.empty()) {
    optimizer.step(trainable.own_gradients(), learning_rates, optim::clip_factor(result.grad_norm, max_grad_norm));
    trainable.publish(*division.group);
  }
  trainable.drop_gradients();
  return result;
}

}  // namespace adept::train
