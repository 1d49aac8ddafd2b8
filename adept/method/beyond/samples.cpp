#include "adept/method/beyond/samples.h"

#include <ATen/TensorOperators.h>

#include "adept/core/error.h"
#include "adept/nn/cross_entropy.h"

namespace adept::method {

MeasureTable& ProbeSamples::table(std::string_view measure) { return tables[std::string(measure)]; }

double LayerMeans::sum(int layer) const {
  double total = 0;
  for (int p = 0; p < num_tensors; ++p) total += at(layer, p);
  return total;
}

LayerMeans layer_means(const ProbeSamples& samples, std::string_view measure, std::span<const double> counts) {
  const auto found = samples.tables.find(measure);
  ADEPT_CHECK(found != samples.tables.end(), "{} was not measured", measure);
  const MeasureTable& table = found->second;
  const std::size_t width = static_cast<std::size_t>(samples.num_layers) * table.tensors.size();
  ADEPT_CHECK(table.values.size() == samples.num_sequences() * width,
              "measure {}: {} values for {} sequences of {} layers x {} tensors", measure, table.values.size(),
              samples.num_sequences(), samples.num_layers, table.tensors.size());
  LayerMeans means{.num_layers = samples.num_layers,
                   .num_tensors = static_cast<int>(table.tensors.size()),
                   .values = std::vector<double>(width)};
  const std::vector<double> factors = mean_factors(
      {.tokens = samples.tokens, .sources = samples.sources, .weights = samples.source_weights, .counts = counts});
  for (std::size_t n = 0; n < factors.size(); ++n) {
    if (factors[n] == 0) continue;
    const double* row = table.values.data() + n * width;
    for (std::size_t i = 0; i < width; ++i) means.values[i] += factors[n] * row[i];
  }
  return means;
}

std::vector<double> target_counts(const model::Batch& batch) {
  const at::Tensor counts = batch.targets.values.ne(nn::kIgnoreIndex).sum(1).to(at::kDouble).cpu().contiguous();
  return {counts.const_data_ptr<double>(), counts.const_data_ptr<double>() + counts.numel()};
}

void add_sequences(const ProbeBatch& batch, ProbeSamples& samples) {
  for (const double count : target_counts(batch.batch)) {
    if (count == 0) continue;
    samples.tokens.push_back(count);
    samples.sources.push_back(batch.source);
    samples.source_weights[batch.source] = batch.weight;
  }
}

Json to_json(const ProbeSamples& samples) {
  Json tables = Json::array(), weights = Json::array();
  for (const auto& [source, weight] : samples.source_weights) weights.push_back({source, weight});
  for (const auto& [measure, table] : samples.tables)
    tables.push_back({{"measure", measure}, {"parts", table.tensors}, {"values", table.values}});
  return {{"num_layers", samples.num_layers}, {"tokens", samples.tokens},  {"losses", samples.losses},
          {"sources", samples.sources},       {"source_weights", weights}, {"tables", tables}};
}

ProbeSamples samples_from_json(const Json& json) {
  ProbeSamples samples{.num_layers = json.at("num_layers").get<int>(),
                       .tokens = json.at("tokens").get<std::vector<double>>(),
                       .losses = json.at("losses").get<std::vector<double>>(),
                       .sources = json.at("sources").get<std::vector<int>>(),
                       .source_weights = {},
                       .tables = {}};
  for (const Json& weight : json.at("source_weights"))
    samples.source_weights[weight.at(0).get<int>()] = weight.at(1).get<double>();
  for (const Json& table : json.at("tables"))
    samples.tables[table.at("measure").get<std::string>()] = {
        .tensors = table.at("parts").get<std::vector<std::string>>(),
        .values = table.at("values").get<std::vector<double>>()};
  return samples;
}

}  // namespace adept::method
