#include "adept/method/importance_methods.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "adept/core/error.h"

namespace adept::method {
namespace {

// The mean itself.
std::vector<double> mean(const LayerMeans& means) {
  std::vector<double> scores;
  for (int l = 0; l < means.num_layers; ++l) scores.push_back(means.sum(l));
  return scores;
}

// The mean divided by that of the largest layer.
std::vector<double> share_of_largest(const LayerMeans& means) {
  std::vector<double> scores = mean(means);
  const double largest = *std::max_element(scores.begin(), scores.end());
  if (largest > 0)
    for (double& score : scores) score /= largest;
  return scores;
}

// 1 - mean over parts p of rank_p(l) / L, rank 1 being the most important layer for that part; ties rank by index.
std::vector<double> mean_rank(const LayerMeans& means) {
  std::vector<int> ranks(static_cast<std::size_t>(means.num_layers)), order(ranks.size());
  for (int p = 0; p < means.num_parts; ++p) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return means.at(a, p) > means.at(b, p); });
    for (std::size_t position = 0; position < order.size(); ++position)
      ranks[static_cast<std::size_t>(order[position])] += static_cast<int>(position) + 1;
  }
  std::vector<double> scores;
  for (const int sum : ranks) scores.push_back(1 - static_cast<double>(sum) / (means.num_parts * means.num_layers));
  return scores;
}

constexpr std::array kMethods = {
    // ADEPT's default, the best of its ablation.
    ImportanceMethod{"mask_out", "rise of the loss without the layer, nats per token", Measure::kBypassLoss, true,
                     mean},
    // Sum of |gradient * weight|, as in movement and magnitude pruning.
    ImportanceMethod{"cumulative", "sum of |gradient * weight| over the layer, largest = 1", Measure::kFirstOrder,
                     false, share_of_largest},
    ImportanceMethod{"rank_aggregation", "1 - mean rank among the layers over the kinds of tensors",
                     Measure::kFirstOrder, false, mean_rank},
    // Diagonal of the empirical Fisher information, from per-sequence gradients.
    ImportanceMethod{"fisher", "sum of squared gradients over the layer", Measure::kSquaredGradient, true, mean},
    // ShortGPT, arXiv 2403.03853.
    ImportanceMethod{"block_influence", "1 - cosine between the layer's input and output", Measure::kAngle, true, mean},
    // First order of mask_out: the derivative with respect to a factor before the layer's output.
    ImportanceMethod{"taylor_gate", "first-order estimate of mask_out from one backward pass", Measure::kGate, true,
                     mean},
};

}  // namespace

std::span<const ImportanceMethod> importance_methods() { return kMethods; }

std::string importance_method_names(std::string_view separator) {
  std::string names;
  for (const ImportanceMethod& method : kMethods)
    names.append(names.empty() ? std::string_view() : separator).append(method.name);
  return names;
}

const ImportanceMethod& importance_method(std::string_view name) {
  for (const ImportanceMethod& method : kMethods)
    if (method.name == name) return method;
  throw ConfigError("importance method: found \"{}\"; expected one of {}.", name, importance_method_names(", "));
}

}  // namespace adept::method
