// Legend: B sequences of a batch, T tokens, L layers, N sequences.
#include <ATen/ops/nonzero.h>

#include <algorithm>
#include <numeric>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/method/importance.h"
#include "adept/method/layer_gradients.h"
#include "adept/method/statistics.h"
#include "adept/nn/cross_entropy.h"

namespace adept::method {
namespace {

// Row b alone, without the padding behind its last target.
model::Batch single_row(const model::Batch& batch, std::int64_t b) {
  const at::Tensor targets = batch.targets.slice(0, b, b + 1);
  const at::Tensor positions = at::nonzero(targets[0].ne(nn::kIgnoreIndex));
  const std::int64_t length = positions.size(0) == 0 ? 0 : positions[-1].item<std::int64_t>() + 1;
  return {.input_ids = batch.input_ids.slice(0, b, b + 1).slice(1, 0, length),
          .targets = targets.slice(1, 0, length),
          .num_targets = positions.size(0)};
}

}  // namespace

Importance cumulative(const model::Decoder& decoder, const std::vector<model::Batch>& batches, Progress& progress) {
  std::vector<int> layers(static_cast<std::size_t>(decoder.num_layers()));
  std::iota(layers.begin(), layers.end(), 0);
  std::vector<double> num_targets, losses;               // (N)
  std::vector<std::vector<double>> sums(layers.size());  // (L, N), each times the sequence's predicted tokens
  std::int64_t done = 0, positions = 0;
  for (const model::Batch& batch : batches) {
    for (std::int64_t b = 0; b < batch.rows(); ++b) {
      throw_if_interrupted();
      const model::Batch row = single_row(batch, b);
      if (row.num_targets == 0) continue;
      const auto n = static_cast<double>(row.num_targets);
      const double loss = visit_layer_gradients(decoder, row, layers, [&](int layer, auto parameters, auto gradients) {
        double sum = 0;
        for (std::size_t i = 0; i < parameters.size(); ++i)
          sum += first_order_importance(*parameters[i].tensor, gradients[i]);
        sums[static_cast<std::size_t>(layer)].push_back(sum * n);
      });
      losses.push_back(loss * n);
      num_targets.push_back(n);
      progress.update(++done, positions += row.num_positions());
    }
  }
  if (num_targets.empty())
    throw DataError("probe text: found no token to predict; expected documents of at least two tokens.");

  Importance importance;
  importance.method = to_string(ImportanceMethod::kCumulative);
  importance.sequences = static_cast<std::int64_t>(num_targets.size());
  importance.tokens = static_cast<std::int64_t>(std::accumulate(num_targets.begin(), num_targets.end(), 0.0));
  importance.baseline_loss = weighted_mean(losses, num_targets);
  double largest = 0;
  for (const auto& layer : sums) largest = std::max(largest, weighted_mean(layer, num_targets));
  for (std::size_t l = 0; l < sums.size(); ++l) {
    const auto ci95 = weighted_mean_ci95(sums[l], num_targets);
    const double unit = largest > 0 ? largest : 1.0;
    importance.layers.push_back({.index = static_cast<int>(l),
                                 .score = weighted_mean(sums[l], num_targets) / unit,
                                 .ci95 = {ci95[0] / unit, ci95[1] / unit}});
  }
  normalize_and_rank(importance.layers);
  return importance;
}

}  // namespace adept::method
