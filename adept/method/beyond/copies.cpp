// Legend: B sequences, T tokens, D hidden_size.
#include "adept/method/beyond/copies.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "adept/core/error.h"
#include "adept/core/signals.h"
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

}  // namespace

CopiesOnText inspect_copies(const model::Decoder& decoder, const Expansion& expansion,
                            const std::vector<ProbeBatch>& batches, Progress& progress) {
  const at::NoGradGuard no_grad;
  const std::vector<double> factors = mean_factors(batches, "text to measure on");
  CopiesOnText report;
  for (const ExpandedLayer& layer : expansion.layers) report.copies.push_back({.layer = layer});
  std::int64_t done = 0, positions = 0;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    throw_if_interrupted();
    const model::Batch& batch = batches[b].batch;
    if (batch.num_targets == 0) continue;
    report.tokens += batch.num_targets;
    const model::Context context = batch.context(throw_if_interrupted);
    at::Tensor h = decoder.embed(batch.input_ids);
    std::vector<double> bypassed;
    std::int64_t next = 0;
    for (CopyReport& copy : report.copies) {
      h = decoder.layers(h, next, copy.layer.index, context);
      next = copy.layer.index + 1;
      const at::Tensor without = decoder.layers(h, next, decoder.num_layers(), context);
      bypassed.push_back(total(decoder.token_losses(without, batch.targets)));
      const at::Tensor after = decoder.layer(h, copy.layer.index, context);
      copy.contribution += factors[b] * contribution(h, after, batch.targets.values);
      h = after;
    }
    const double loss =
        total(decoder.token_losses(decoder.layers(h, next, decoder.num_layers(), context), batch.targets));
    report.loss += factors[b] * loss;
    for (std::size_t c = 0; c < bypassed.size(); ++c) report.copies[c].loss_rise += factors[b] * (bypassed[c] - loss);
    progress.update(++done, positions += batch.num_positions());
  }
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
