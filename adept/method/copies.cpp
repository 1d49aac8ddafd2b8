// Legend: B sequences, T tokens, D hidden_size.
#include "adept/method/copies.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <map>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/nn/cross_entropy.h"

namespace adept::method {
namespace {

struct CopySums {
  double tokens = 0, loss = 0;
  std::vector<double> contributions, bypassed;
};

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
  std::map<int, CopySums> sums;  // by source
  std::int64_t done = 0, positions = 0;
  for (const auto& [batch, source, weight] : batches) {
    throw_if_interrupted();
    if (batch.num_targets == 0) continue;
    CopySums& s = sums[source];
    s.contributions.resize(expansion.layers.size());
    s.bypassed.resize(expansion.layers.size());
    s.tokens += static_cast<double>(batch.num_targets);
    const model::Context context = batch.context(throw_if_interrupted);
    at::Tensor h = decoder.embed(batch.input_ids);
    std::int64_t next = 0;
    for (std::size_t c = 0; c < expansion.layers.size(); ++c) {
      const std::int64_t index = expansion.layers[c].index;
      h = decoder.layers(h, next, index, context);
      const at::Tensor without = decoder.layers(h, index + 1, decoder.num_layers(), context);
      s.bypassed[c] += total(decoder.token_losses(without, batch.targets));
      const at::Tensor after = decoder.layer(h, index, context);
      s.contributions[c] += contribution(h, after, batch.targets);
      h = after;
      next = index + 1;
    }
    s.loss += total(decoder.token_losses(decoder.layers(h, next, decoder.num_layers(), context), batch.targets));
    progress.update(++done, positions += batch.num_positions());
  }
  if (sums.empty()) throw DataError("found no token to predict; expected documents of at least two tokens.");
  CopiesOnText report;
  for (const ProbeBatch& batch : batches) report.tokens += batch.batch.num_targets;
  for (const ExpandedLayer& layer : expansion.layers) report.copies.push_back({.layer = layer});
  const std::map<int, double> shares = source_shares(batches);
  for (const auto& [source, s] : sums) {
    const double factor = shares.at(source) / s.tokens;
    report.loss += factor * s.loss;
    for (std::size_t c = 0; c < report.copies.size(); ++c) {
      report.copies[c].contribution += factor * s.contributions[c];
      report.copies[c].loss_rise += factor * (s.bypassed[c] - s.loss);
    }
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
