// Legend: B sequences of a batch, T tokens, D hidden_size, L layers, N sequences.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/sum.h>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/method/importance.h"
#include "adept/method/statistics.h"
#include "adept/nn/cross_entropy.h"

namespace adept::method {
namespace {

// Per-sequence sums of the loss: of the model as it is, and with each layer bypassed.
struct SequenceLosses {
  std::vector<double> num_targets;            // (N)
  std::vector<double> baseline;               // (N)
  std::vector<std::vector<double>> bypassed;  // (L, N)
};

// Appends the sum over T of each row of h's losses.
void append_losses(const model::Decoder& decoder, const at::Tensor& h, const at::Tensor& targets,
                   std::vector<double>& sums) {
  const at::Tensor rows = decoder.token_losses(h, targets).to(at::kDouble).sum(1).cpu();  // (B)
  sums.insert(sums.end(), rows.data_ptr<double>(), rows.data_ptr<double>() + rows.numel());
}

void append_target_counts(const at::Tensor& targets, std::vector<double>& counts) {
  const at::Tensor rows = targets.ne(nn::kIgnoreIndex).sum(1).to(at::kDouble).cpu();  // (B)
  counts.insert(counts.end(), rows.data_ptr<double>(), rows.data_ptr<double>() + rows.numel());
}

Importance summarize(const SequenceLosses& losses) {
  Importance importance;
  importance.method = to_string(ImportanceMethod::kMaskOut);
  double tokens = 0;
  for (const double n : losses.num_targets) tokens += n;
  importance.tokens = static_cast<std::int64_t>(tokens);
  importance.sequences = static_cast<std::int64_t>(losses.num_targets.size());
  if (importance.tokens == 0)
    throw DataError("probe text: found no token to predict; expected documents of at least two tokens.");
  importance.baseline_loss = weighted_mean(losses.baseline, losses.num_targets);
  for (std::size_t l = 0; l < losses.bypassed.size(); ++l) {
    std::vector<double> differences = losses.bypassed[l];  // paired: the same sequence with and without the layer
    for (std::size_t i = 0; i < differences.size(); ++i) differences[i] -= losses.baseline[i];
    importance.layers.push_back({.index = static_cast<int>(l),
                                 .score = weighted_mean(differences, losses.num_targets),
                                 .ci95 = weighted_mean_ci95(differences, losses.num_targets)});
  }
  normalize_and_rank(importance.layers);
  return importance;
}

}  // namespace

Importance mask_out(const model::Decoder& decoder, const std::vector<model::Batch>& batches, Progress& progress) {
  const at::NoGradGuard no_grad;
  const std::int64_t num_layers = decoder.num_layers();
  SequenceLosses losses;
  losses.bypassed.resize(static_cast<std::size_t>(num_layers));
  std::int64_t done = 0, positions = 0;
  for (const model::Batch& batch : batches) {
    append_target_counts(batch.targets, losses.num_targets);
    at::Tensor h = decoder.embed(batch.input_ids);  // (B, T, D), the input of layer l
    for (std::int64_t l = 0; l < num_layers; ++l) {
      throw_if_interrupted();
      append_losses(decoder, decoder.layers(h, l + 1, num_layers), batch.targets,
                    losses.bypassed[static_cast<std::size_t>(l)]);
      h = decoder.layer(h, l);
      progress.update(++done, positions += batch.num_positions());
    }
    append_losses(decoder, h, batch.targets, losses.baseline);
    progress.update(++done, positions += batch.num_positions());
  }
  return summarize(losses);
}

Importance mask_out_naive(const model::Decoder& decoder, const std::vector<model::Batch>& batches) {
  const at::NoGradGuard no_grad;
  const auto num_layers = static_cast<std::size_t>(decoder.num_layers());
  SequenceLosses losses;
  losses.bypassed.resize(num_layers);
  for (const model::Batch& batch : batches) {
    append_target_counts(batch.targets, losses.num_targets);
    append_losses(decoder, decoder.forward(batch.input_ids), batch.targets, losses.baseline);
    for (std::size_t l = 0; l < num_layers; ++l) {
      model::LayerMask bypass(num_layers, false);
      bypass[l] = true;
      append_losses(decoder, decoder.forward(batch.input_ids, bypass), batch.targets, losses.bypassed[l]);
    }
  }
  return summarize(losses);
}

}  // namespace adept::method
