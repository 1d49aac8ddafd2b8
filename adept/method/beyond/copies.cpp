// Legend: B sequences, T tokens, D hidden_size.
#include "adept/method/beyond/copies.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "adept/core/signals.h"
#include "adept/dist/division.h"
#include "adept/nn/cross_entropy.h"

namespace adept::method {
namespace {

double total(const at::Tensor& tensor) { return tensor.sum(at::kDouble).item<double>(); }

// Sum over the positions with a target of |after - before| / |before|.
double contribution(const at::Tensor& before, const at::Tensor& after, const at::Tensor& targets) {
  const at::Tensor a = before.to(at::kFloat), step = after.to(at::kFloat) - a;  // (B, T, D)
  const at::Tensor ratio = (step.square().sum(-1) / a.square().sum(-1).clamp_min(1e-30)).sqrt();
  return total(ratio.masked_fill(targets.to(ratio.device()).eq(nn::kIgnoreIndex), 0));
}

// Of one batch, summed over its predicted tokens: the loss of the model, then for each copy its contribution and the
// loss without it. Processes that share the layers agree after each copy whether a signal ends the measurement.
dist::Numbers measure_copies(const model::Decoder& decoder, const Expansion& expansion, const model::Batch& batch,
                             dist::ProcessGroup& group) {
  const model::Context context = batch.context(throw_if_interrupted);
  at::Tensor h = decoder.embed(batch.input_ids);
  dist::Numbers numbers = {0};
  std::int64_t next = 0;
  for (const ExpandedLayer& copy : expansion.layers) {
    h = decoder.layers(h, next, copy.index, context);
    next = copy.index + 1;
    const at::Tensor without = decoder.layers(h, next, decoder.num_layers(), context);
    const at::Tensor after = decoder.layer(h, copy.index, context);
    numbers.push_back(contribution(h, after, batch.targets.values));
    numbers.push_back(total(decoder.token_losses(without, batch.targets)));
    h = after;
    if (decoder.is_shared()) group.throw_if_interrupted();
  }
  numbers.front() = total(decoder.token_losses(decoder.layers(h, next, decoder.num_layers(), context), batch.targets));
  return numbers;
}

}  // namespace

CopiesOnText inspect_copies(const model::Decoder& decoder, const Expansion& expansion,
                            const std::vector<ProbeBatch>& batches, Progress& progress, dist::ProcessGroup& group) {
  const at::NoGradGuard no_grad;
  const std::vector<double> factors = mean_factors(batches, "text to measure on");
  CopiesOnText report;
  for (const ExpandedLayer& layer : expansion.layers) report.copies.push_back({.layer = layer});
  std::vector<std::size_t> used;
  for (std::size_t b = 0; b < batches.size(); ++b)
    if (batches[b].batch.num_targets > 0) used.push_back(b);
  std::int64_t positions = 0;
  const auto measure = [&](std::int64_t item) {
    return measure_copies(decoder, expansion, batches[used[static_cast<std::size_t>(item)]].batch, group);
  };
  const auto add = [&](std::int64_t item, const dist::Numbers& numbers) {
    const std::size_t b = used[static_cast<std::size_t>(item)];
    const model::Batch& batch = batches[b].batch;
    const double factor = factors[b], loss = numbers.front();
    report.tokens += batch.num_targets;
    report.loss += factor * loss;
    for (std::size_t c = 0; c < report.copies.size(); ++c) {
      report.copies[c].contribution += factor * numbers[1 + 2 * c];
      report.copies[c].loss_rise += factor * (numbers[2 + 2 * c] - loss);
    }
    progress.update(item + 1, positions += batch.num_positions());
  };
  dist::divide(group, std::ssize(used), measure, add, /*in_step=*/decoder.is_shared());
  return report;
}

Json to_json(const CopiesOnText& report) {
  Json copies = Json::array();
  for (const CopyReport& copy : report.copies)
    copies.push_back({{"source", copy.layer.source},
                      {"index", copy.layer.index},
                      {"contribution", copy.contribution},
                      {"loss_rise", copy.loss_rise}});
  return {{"loss", report.loss}, {"tokens", report.tokens}, {"copies", copies}};
}

}  // namespace adept::method
