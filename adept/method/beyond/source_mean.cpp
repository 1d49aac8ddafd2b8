#include "adept/method/beyond/source_mean.h"

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/model/torch_tensors.h"

namespace adept::method {

std::vector<double> mean_factors(const TextItems& items) {
  const auto source = [&](std::size_t i) { return items.sources.empty() ? 0 : items.sources[i]; };
  const auto count = [&](std::size_t i) { return items.counts.empty() ? 1.0 : items.counts[i]; };
  std::map<int, double> tokens;
  for (std::size_t i = 0; i < items.tokens.size(); ++i)
    if (count(i) > 0 && items.tokens[i] > 0) tokens[source(i)] += count(i) * items.tokens[i];
  const auto weight = [&](int s) { return items.weights.empty() ? 1.0 : items.weights.at(s); };
  double weights = 0;
  for (const auto& [s, n] : tokens) weights += weight(s);
  std::map<int, double> of_source;
  for (const auto& [s, n] : tokens) of_source[s] = weight(s) / weights / n;
  std::vector<double> factors(items.tokens.size());
  for (std::size_t i = 0; i < factors.size(); ++i)
    if (count(i) > 0 && items.tokens[i] > 0) factors[i] = count(i) * of_source.at(source(i));
  return factors;
}

std::vector<double> mean_factors(std::span<const ProbeBatch> batches, const std::string& text) {
  std::vector<double> tokens;
  std::vector<int> sources;
  std::map<int, double> weights;
  double total = 0;
  for (const auto& [batch, source, weight] : batches) {
    tokens.push_back(static_cast<double>(batch.num_targets));
    sources.push_back(source);
    weights[source] = weight;
    total += tokens.back();
  }
  if (total == 0) throw DataError("{}: found no token to predict; expected documents of at least two tokens.", text);
  return mean_factors({.tokens = tokens, .sources = sources, .weights = weights, .counts = {}});
}

std::string fingerprint(std::span<const ProbeBatch> batches) {
  Hasher hasher;
  for (const auto& [batch, source, weight] : batches) {
    hasher.update(fmt::format("{} {} {} {} ", source, weight, batch.rows(), batch.num_positions()));
    for (const at::Tensor& tensor : {batch.input_ids.host, batch.targets.values, batch.document_starts, batch.lengths})
      if (tensor.defined()) hasher.update(model::as_view("", tensor.cpu().contiguous()).data);
  }
  return hasher.digest();
}

}  // namespace adept::method
