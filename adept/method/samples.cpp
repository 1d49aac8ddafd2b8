// Legend: B sequences of a batch, T tokens, D hidden_size, L layers, N sequences, P parts.
#include "adept/method/samples.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/stack.h>

#include <numeric>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/signals.h"
#include "adept/method/layer_gradients.h"
#include "adept/model/torch_tensors.h"
#include "adept/nn/cross_entropy.h"

namespace adept::method {
namespace {

std::vector<double> to_vector(const at::Tensor& tensor) {
  const at::Tensor host = tensor.to(at::kDouble).cpu().contiguous();
  return {host.data_ptr<double>(), host.data_ptr<double>() + host.numel()};
}

// Predicted tokens of each row: (B).
std::vector<double> target_counts(const model::Batch& batch) {
  return to_vector(batch.targets.ne(nn::kIgnoreIndex).sum(1));
}

// Sum of the losses of each row of h (B, T, D): (B) fp64.
at::Tensor row_losses(const model::Decoder& decoder, const at::Tensor& h, const at::Tensor& targets) {
  return decoder.token_losses(h, targets).to(at::kDouble).sum(1);
}

// The first pass over a batch brings its losses.
void add_losses(ProbeSamples& samples, const std::vector<double>& losses) {
  if (samples.losses.size() < samples.num_sequences())
    samples.losses.insert(samples.losses.end(), losses.begin(), losses.end());
}

// losses (B, L+1): with each layer bypassed, and of the model as it is.
void add_bypass_losses(const model::Batch& batch, const std::vector<at::Tensor>& columns, ProbeSamples& samples) {
  const at::Tensor losses = at::stack(columns, 1).cpu();
  const std::vector<double> counts = target_counts(batch);
  std::vector<double>& values = samples.tables[Measure::kBypassLoss].values;
  std::vector<double> model_losses;
  for (std::size_t b = 0; b < counts.size(); ++b) {
    if (counts[b] == 0) continue;
    const std::vector<double> row = to_vector(losses[static_cast<std::int64_t>(b)]);
    model_losses.push_back(row.back());
    // Paired: the same sequence with and without the layer.
    for (std::size_t l = 0; l + 1 < row.size(); ++l) values.push_back(row[l] - row.back());
  }
  add_losses(samples, model_losses);
}

// Row b alone, without the padding behind its last target.
model::Batch single_row(const model::Batch& batch, std::int64_t b) {
  const at::Tensor targets = batch.targets.slice(0, b, b + 1);
  const at::Tensor positions = at::nonzero(targets[0].ne(nn::kIgnoreIndex));
  const std::int64_t length = positions.size(0) == 0 ? 0 : positions[-1].item<std::int64_t>() + 1;
  return {.input_ids = batch.input_ids.slice(0, b, b + 1).slice(1, 0, length),
          .targets = targets.slice(1, 0, length),
          .num_targets = positions.size(0),
          .document_starts = batch.document_starts.defined()
                                 ? batch.document_starts.slice(0, b, b + 1).slice(1, 0, length)
                                 : at::Tensor()};
}

// 1 - cos(before, after) of (B, T, D), summed over the positions with a target: (B) fp64. ShortGPT, arXiv 2403.03853.
at::Tensor row_angles(const at::Tensor& before, const at::Tensor& after, const at::Tensor& targets) {
  const at::Tensor a = before.detach().to(at::kDouble), b = after.detach().to(at::kDouble);
  const at::Tensor norms = (a.square().sum(-1) * b.square().sum(-1)).sqrt();  // (B, T)
  const at::Tensor cosine = (a * b).sum(-1) / norms.clamp_min(1e-30);
  return (1 - cosine).masked_fill(targets.to(cosine.device()).eq(nn::kIgnoreIndex), 0).sum(1);
}

double sum_of_squares(const at::Tensor& tensor) {
  return tensor.to(at::kFloat).square().sum(at::kDouble).item<double>();
}

}  // namespace

double LayerMeans::sum(int layer) const {
  double total = 0;
  for (int p = 0; p < num_parts; ++p) total += at(layer, p);
  return total;
}

LayerMeans layer_means(const ProbeSamples& samples, Measure measure, std::span<const double> counts) {
  const MeasureTable& table = samples.tables.at(measure);
  const std::size_t width = static_cast<std::size_t>(samples.num_layers) * table.parts.size();
  ADEPT_CHECK(table.values.size() == samples.num_sequences() * width, "a table of {} values for {} sequences",
              table.values.size(), samples.num_sequences());
  std::map<int, double> tokens;
  std::map<int, std::vector<double>> totals;
  for (std::size_t n = 0; n < samples.num_sequences(); ++n) {
    const double count = counts.empty() ? 1.0 : counts[n];
    if (count == 0) continue;
    const double* row = table.values.data() + n * width;
    std::vector<double>& total = totals[samples.sources[n]];
    total.resize(width);
    tokens[samples.sources[n]] += count * samples.tokens[n];
    for (std::size_t i = 0; i < width; ++i) total[i] += count * row[i];
  }
  LayerMeans means{.num_layers = samples.num_layers,
                   .num_parts = static_cast<int>(table.parts.size()),
                   .values = std::vector<double>(width)};
  double weights = 0;
  for (const auto& [source, total] : totals) weights += samples.source_weights.at(source);
  for (const auto& [source, total] : totals) {
    const double factor = samples.source_weights.at(source) / weights / tokens.at(source);
    for (std::size_t i = 0; i < width; ++i) means.values[i] += factor * total[i];
  }
  return means;
}

std::map<int, double> source_shares(std::span<const ProbeBatch> batches) {
  std::map<int, double> shares;
  for (const ProbeBatch& batch : batches)
    if (batch.batch.num_targets > 0) shares[batch.source] = batch.weight;
  double total = 0;
  for (const auto& [source, weight] : shares) total += weight;
  for (auto& [source, weight] : shares) weight /= total;
  return shares;
}

std::string fingerprint(std::span<const ProbeBatch> batches) {
  Hasher hasher;
  for (const auto& [batch, source, weight] : batches) {
    hasher.update(fmt::format("{} {} {} {} ", source, weight, batch.rows(), batch.num_positions()));
    for (const at::Tensor& tensor : {batch.input_ids, batch.targets, batch.document_starts})
      if (tensor.defined()) hasher.update(model::as_view("", tensor.cpu().contiguous()).data);
  }
  return hasher.digest();
}

void keep_first(ProbeSamples& samples, std::size_t num_sequences) {
  samples.tokens.resize(num_sequences);
  samples.losses.resize(num_sequences);
  samples.sources.resize(num_sequences);
  for (auto& [measure, table] : samples.tables)
    table.values.resize(num_sequences * static_cast<std::size_t>(samples.num_layers) * table.parts.size());
}

Json to_json(const ProbeSamples& samples) {
  Json tables = Json::array(), weights = Json::array();
  for (const auto& [source, weight] : samples.source_weights) weights.push_back({source, weight});
  for (const auto& [measure, table] : samples.tables)
    tables.push_back({{"measure", static_cast<int>(measure)}, {"parts", table.parts}, {"values", table.values}});
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
    samples.tables[static_cast<Measure>(table.at("measure").get<int>())] = {
        .parts = table.at("parts").get<std::vector<std::string>>(),
        .values = table.at("values").get<std::vector<double>>()};
  return samples;
}

void add_sequences(const ProbeBatch& batch, ProbeSamples& samples) {
  for (const double count : target_counts(batch.batch)) {
    if (count == 0) continue;
    samples.tokens.push_back(count);
    samples.sources.push_back(batch.source);
    samples.source_weights[batch.source] = batch.weight;
  }
}

void measure_bypass(const model::Decoder& decoder, const ProbeBatch& probe, ProbeSamples& samples, const Tick& tick) {
  const at::NoGradGuard no_grad;
  const model::Batch& batch = probe.batch;
  const std::int64_t num_layers = decoder.num_layers();
  const model::Context context = batch.context(throw_if_interrupted);
  std::vector<at::Tensor> losses;                 // L+1 columns of (B)
  at::Tensor h = decoder.embed(batch.input_ids);  // (B, T, D), the input of layer l
  for (std::int64_t l = 0; l < num_layers; ++l) {
    const at::Tensor without = decoder.layers(h, l + 1, num_layers, context);
    losses.push_back(row_losses(decoder, without, batch.targets));
    h = decoder.layer(h, l, context);
    tick(batch.num_positions());
  }
  losses.push_back(row_losses(decoder, h, batch.targets));
  tick(batch.num_positions());
  add_bypass_losses(batch, losses, samples);
}

void measure_bypass_naive(const model::Decoder& decoder, const ProbeBatch& probe, ProbeSamples& samples) {
  const at::NoGradGuard no_grad;
  const auto num_layers = static_cast<std::size_t>(decoder.num_layers());
  std::vector<at::Tensor> losses;
  for (std::size_t l = 0; l <= num_layers; ++l) {
    model::LayerMask bypass(num_layers, false);
    if (l < num_layers) bypass[l] = true;
    const at::Tensor h = decoder.forward(probe.batch.input_ids, probe.batch.context(), bypass);
    losses.push_back(row_losses(decoder, h, probe.batch.targets));
  }
  add_bypass_losses(probe.batch, losses, samples);
}

void measure_gradients(const model::Decoder& decoder, const ProbeBatch& probe, ProbeSamples& samples,
                       const Tick& tick) {
  std::vector<int> layers(static_cast<std::size_t>(decoder.num_layers()));
  std::iota(layers.begin(), layers.end(), 0);
  MeasureTable& first_order = samples.tables[Measure::kFirstOrder];
  std::vector<double> losses;
  for (std::int64_t b = 0; b < probe.batch.rows(); ++b) {
    throw_if_interrupted();
    const model::Batch row = single_row(probe.batch, b);
    if (row.num_targets == 0) continue;
    const auto n = static_cast<double>(row.num_targets);
    // Layers are visited from the top down; the tables hold them from the bottom up.
    std::vector<std::vector<double>> sums(layers.size());
    std::vector<double> squares(layers.size()), gates(layers.size()), angles(layers.size());
    const double loss = visit_layer_gradients(decoder, row, layers, [&](const LayerGradients& g) {
      const auto l = static_cast<std::size_t>(g.layer);
      first_order.parts.clear();
      for (std::size_t i = 0; i < g.parameters.size(); ++i) {
        first_order.parts.push_back(g.parameters[i].local_name);
        sums[l].push_back(n * first_order_importance(g.parameters[i], g.gradients[i]));
        squares[l] += n * sum_of_squares(g.gradients[i]);
      }
      const at::Tensor step = g.output.detach().to(at::kFloat) - g.input.detach().to(at::kFloat);
      gates[l] = -n * (g.output_gradient.to(at::kFloat) * step).sum(at::kDouble).item<double>();
      angles[l] = row_angles(g.input, g.output, row.targets).item<double>();
    });
    for (const auto& layer : sums) first_order.values.insert(first_order.values.end(), layer.begin(), layer.end());
    const auto append = [&](Measure measure, const std::vector<double>& values) {
      auto& table = samples.tables[measure].values;
      table.insert(table.end(), values.begin(), values.end());
    };
    append(Measure::kSquaredGradient, squares);
    append(Measure::kGate, gates);
    append(Measure::kAngle, angles);
    losses.push_back(loss * n);
    tick(row.num_positions());
  }
  add_losses(samples, losses);
}

void measure_angles(const model::Decoder& decoder, const ProbeBatch& probe, ProbeSamples& samples, const Tick& tick) {
  const at::NoGradGuard no_grad;
  throw_if_interrupted();
  const model::Batch& batch = probe.batch;
  at::Tensor h = decoder.embed(batch.input_ids);
  std::vector<at::Tensor> columns;  // L of (B)
  for (std::int64_t l = 0; l < decoder.num_layers(); ++l) {
    const at::Tensor next = decoder.layer(h, l, batch.context());
    columns.push_back(row_angles(h, next, batch.targets));
    h = next;
  }
  const at::Tensor angles = at::stack(columns, 1).cpu();  // (B, L)
  const std::vector<double> losses = to_vector(row_losses(decoder, h, batch.targets)), counts = target_counts(batch);
  std::vector<double>& table = samples.tables[Measure::kAngle].values;
  std::vector<double> kept;
  for (std::size_t b = 0; b < counts.size(); ++b) {
    if (counts[b] == 0) continue;
    kept.push_back(losses[b]);
    const std::vector<double> row = to_vector(angles[static_cast<std::int64_t>(b)]);
    table.insert(table.end(), row.begin(), row.end());
  }
  add_losses(samples, kept);
  tick(batch.num_positions());
}

}  // namespace adept::method
