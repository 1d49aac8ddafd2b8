// Legend: B sequences of a batch, T tokens, D hidden_size, L layers, P tensors of a layer; F_l(h_l) = h_{l+1} - h_l; g
// the gradient of the mean loss of one sequence.
#include "adept/method/importance.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/method/beyond/first_order_improvement.h"
#include "adept/method/options.h"
#include "adept/model/layer_gradients.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/stored.h"

namespace adept::method {
namespace {

// Measures.
constexpr std::string_view kMaskOut = "mask_out", kFirstOrder = "first order", kSquaredGradient = "squared gradient",
                           kGate = "gate", kAngle = "angle";

std::vector<double> to_vector(const at::Tensor& tensor) {
  const at::Tensor host = tensor.to(at::kDouble).cpu().contiguous();
  return {host.data_ptr<double>(), host.data_ptr<double>() + host.numel()};
}

// Sum of the losses of each row of h (B, T, D): (B) fp64.
at::Tensor row_losses(const model::Decoder& decoder, const at::Tensor& h, const nn::Targets& targets) {
  return decoder.token_losses(h, targets).to(at::kDouble).sum(1);
}

// The first pass over a batch computes its losses.
void add_losses(ProbeSamples& samples, const std::vector<double>& losses) {
  if (samples.losses.size() < samples.num_sequences())
    samples.losses.insert(samples.losses.end(), losses.begin(), losses.end());
}

// Row b alone, without padding.
model::Batch single_row(const model::Batch& batch, std::int64_t b) {
  const std::int64_t length =
      batch.lengths.defined() ? batch.lengths[b].item<std::int64_t>() : batch.input_ids.host.size(1);
  const auto row = [&](const at::Tensor& of_batch) { return of_batch.slice(0, b, b + 1).slice(1, 0, length); };
  const nn::Targets targets = row(batch.targets.values);
  return {.input_ids = {row(batch.input_ids.host), batch.input_ids.values.device()},
          .targets = targets,
          .num_targets = targets.count(),
          .document_starts = batch.document_starts.defined() ? row(batch.document_starts) : at::Tensor()};
}

// Processes that share the layers end a pass together: see Pass.
void throw_if_interrupted_alone(const model::Decoder& decoder) {
  if (!decoder.is_shared()) throw_if_interrupted();
}

// The rows that predict a token.
std::vector<std::int64_t> predicting_rows(const model::Batch& batch) {
  std::vector<std::int64_t> rows;
  const std::vector<double> counts = target_counts(batch);
  for (std::size_t b = 0; b < counts.size(); ++b)
    if (counts[b] > 0) rows.push_back(static_cast<std::int64_t>(b));
  return rows;
}

void append(MeasureTable& table, std::span<const double> values) {
  table.values.insert(table.values.end(), values.begin(), values.end());
}

// ---- mask_out: I_l = loss of the model without layer l - loss of the model; nats, the layer being the identity.
// What is below the layer is computed once, so it takes L + L(L-1)/2 layer passes and L+1 heads; processes that divide
// the layers of a batch each compute it.

// Piece l is the loss without layer l, and piece L that of the model: (B) each.
std::vector<dist::Numbers> measure_mask_out(const model::Decoder& decoder, const ProbeBatch& probe,
                                            std::span<const std::int64_t> pieces, const Tick& tick) {
  const at::NoGradGuard no_grad;
  const model::Batch& batch = probe.batch;
  const std::int64_t num_layers = decoder.num_layers();
  const model::Context context = batch.context(throw_if_interrupted);
  std::vector<dist::Numbers> losses;
  at::Tensor h = decoder.embed(batch.input_ids);  // (B, T, D), the input of layer `next`
  std::int64_t next = 0;
  for (const std::int64_t l : pieces) {
    h = decoder.layers(h, next, l, context);
    next = l;
    const at::Tensor last = l < num_layers ? decoder.layers(h, l + 1, num_layers, context) : h;
    losses.push_back(to_vector(row_losses(decoder, last, batch.targets)));
    tick(batch.num_positions());
  }
  return losses;
}

void add_mask_out(const model::Decoder&, const ProbeBatch& probe, std::span<const dist::Numbers> pieces,
                  ProbeSamples& samples) {
  const std::vector<double> counts = target_counts(probe.batch);
  const dist::Numbers& of_model = pieces.back();
  std::vector<double> model_losses;
  for (std::size_t b = 0; b < counts.size(); ++b) {
    if (counts[b] == 0) continue;
    // Paired: the same sequence with and without the layer.
    for (const dist::Numbers& without : pieces.first(pieces.size() - 1))
      samples.table(kMaskOut).values.push_back(without[b] - of_model[b]);
    model_losses.push_back(of_model[b]);
  }
  add_losses(samples, model_losses);
}

// ---- block_influence: 1 - cos(h_l, h_{l+1}), over positions with a target (ShortGPT, arXiv 2403.03853).

// Of (B, T, D), summed over the positions with a target: (B) fp64.
at::Tensor row_angles(const at::Tensor& before, const at::Tensor& after, const at::Tensor& targets) {
  const at::Tensor a = before.detach().to(at::kDouble), b = after.detach().to(at::kDouble);
  const at::Tensor norms = (a.square().sum(-1) * b.square().sum(-1)).sqrt();  // (B, T)
  const at::Tensor cosine = (a * b).sum(-1) / norms.clamp_min(1e-30);
  return (1 - cosine).masked_fill(targets.to(cosine.device()).eq(nn::kIgnoreIndex), 0).sum(1);
}

// One piece: the losses (B), then the angles of each layer (L, B).
std::vector<dist::Numbers> measure_angles(const model::Decoder& decoder, const ProbeBatch& probe,
                                          std::span<const std::int64_t>, const Tick& tick) {
  const at::NoGradGuard no_grad;
  throw_if_interrupted_alone(decoder);
  const model::Batch& batch = probe.batch;
  const model::Context context = batch.context();
  at::Tensor h = decoder.embed(batch.input_ids);
  std::vector<at::Tensor> angles;  // L of (B)
  for (std::int64_t l = 0; l < decoder.num_layers(); ++l) {
    const at::Tensor next = decoder.layer(h, l, context);
    angles.push_back(row_angles(h, next, batch.targets.values));
    h = next;
  }
  dist::Numbers numbers = to_vector(row_losses(decoder, h, batch.targets));
  const std::vector<double> of_layers = to_vector(at::stack(angles));  // (L, B)
  numbers.insert(numbers.end(), of_layers.begin(), of_layers.end());
  tick(batch.num_positions());
  return {numbers};
}

void add_angles(const model::Decoder& decoder, const ProbeBatch& probe, std::span<const dist::Numbers> pieces,
                ProbeSamples& samples) {
  const std::vector<double> counts = target_counts(probe.batch);
  const auto num_layers = static_cast<std::size_t>(decoder.num_layers());
  const dist::Numbers& numbers = pieces.front();
  std::vector<double> losses;
  for (std::size_t b = 0; b < counts.size(); ++b) {
    if (counts[b] == 0) continue;
    losses.push_back(numbers[b]);
    for (std::size_t l = 0; l < num_layers; ++l)
      samples.table(kAngle).values.push_back(numbers[(l + 1) * counts.size() + b]);
  }
  add_losses(samples, losses);
}

// ---- All others, and the angle once more, from one backward pass per sequence:
//   first order        of each tensor theta of the layer  sum over i of |g_i theta_i|
//   squared gradient   sum over i of g_i^2
//   gate               -<dL/dh_{l+1}, F_l(h_l)>, L the sum of losses: first order in a gate before F_l

double sum_of_squares(const at::Tensor& tensor) {
  return tensor.to(at::kFloat).square().sum(at::kDouble).item<double>();
}

// Of one sequence: its loss, then (L) squares, gates and angles, then the first order (L, P).
dist::Numbers measure_sequence(const model::Decoder& decoder, const model::Batch& row) {
  std::vector<int> layers(static_cast<std::size_t>(decoder.num_layers()));
  std::iota(layers.begin(), layers.end(), 0);
  const auto n = static_cast<double>(row.num_targets);
  // Layers are visited from the top down; the numbers go from the bottom up.
  std::vector<std::vector<double>> sums(layers.size());
  std::vector<double> squares(layers.size()), gates(layers.size()), angles(layers.size());
  const double loss = model::visit_layer_gradients(decoder, row, layers, [&](const model::LayerGradients& g) {
    const auto l = static_cast<std::size_t>(g.layer);
    for (std::size_t i = 0; i < g.parameters.size(); ++i) {
      sums[l].push_back(n * first_order_importance(g.parameters[i], g.gradients[i]));
      squares[l] += n * sum_of_squares(g.gradients[i]);
    }
    const at::Tensor step = g.output.detach().to(at::kFloat) - g.input.detach().to(at::kFloat);
    gates[l] = -n * (g.output_gradient.to(at::kFloat) * step).sum(at::kDouble).item<double>();
    angles[l] = row_angles(g.input, g.output, row.targets.values).item<double>();
  });
  dist::Numbers numbers = {loss * n};
  for (const auto& values : {squares, gates, angles}) numbers.insert(numbers.end(), values.begin(), values.end());
  for (const auto& values : sums) numbers.insert(numbers.end(), values.begin(), values.end());
  return numbers;
}

// A piece is a sequence that predicts a token.
std::vector<dist::Numbers> measure_gradients(const model::Decoder& decoder, const ProbeBatch& probe,
                                             std::span<const std::int64_t> pieces, const Tick& tick) {
  const std::vector<std::int64_t> rows = predicting_rows(probe.batch);
  std::vector<dist::Numbers> numbers;
  for (const std::int64_t piece : pieces) {
    throw_if_interrupted_alone(decoder);
    const model::Batch row = single_row(probe.batch, rows.at(static_cast<std::size_t>(piece)));
    numbers.push_back(measure_sequence(decoder, row));
    tick(row.num_positions());
  }
  return numbers;
}

void add_gradients(const model::Decoder& decoder, const ProbeBatch&, std::span<const dist::Numbers> pieces,
                   ProbeSamples& samples) {
  const auto num_layers = static_cast<std::size_t>(decoder.num_layers());
  MeasureTable& first_order = samples.table(kFirstOrder);
  model::Weights weights = decoder.weights();
  first_order.tensors.clear();
  for (const model::Parameter& p : model::layer_parameters(weights, 0)) first_order.tensors.push_back(p.local_name);
  std::vector<double> losses;
  for (const dist::Numbers& piece : pieces) {
    std::span<const double> rest = piece;
    const auto take = [&](std::size_t count) { return std::exchange(rest, rest.subspan(count)).first(count); };
    losses.push_back(take(1).front());
    append(samples.table(kSquaredGradient), take(num_layers));
    append(samples.table(kGate), take(num_layers));
    append(samples.table(kAngle), take(num_layers));
    append(first_order, rest);
  }
  add_losses(samples, losses);
}

// The mean itself.
std::vector<double> mean(const LayerMeans& means) {
  std::vector<double> scores;
  for (int l = 0; l < means.num_layers; ++l) scores.push_back(means.sum(l));
  return scores;
}

// The mean, divided by the largest layer's mean.
std::vector<double> share_of_largest(const LayerMeans& means) {
  std::vector<double> scores = mean(means);
  const double largest = *std::max_element(scores.begin(), scores.end());
  if (largest > 0)
    for (double& score : scores) score /= largest;
  return scores;
}

// 1 - mean over tensors p of rank_p(l) / L, rank 1 being the most important layer for that tensor; ties rank by index.
std::vector<double> mean_rank(const LayerMeans& means) {
  std::vector<int> ranks(static_cast<std::size_t>(means.num_layers)), order(ranks.size());
  for (int p = 0; p < means.num_tensors; ++p) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return means.at(a, p) > means.at(b, p); });
    for (std::size_t position = 0; position < order.size(); ++position)
      ranks[static_cast<std::size_t>(order[position])] += static_cast<int>(position) + 1;
  }
  std::vector<double> scores;
  for (const int sum : ranks) scores.push_back(1 - static_cast<double>(sum) / (means.num_tensors * means.num_layers));
  return scores;
}

constexpr Pass kMaskOutPass = {
    .num_pieces = [](const model::Decoder& decoder, const ProbeBatch&) { return decoder.num_layers() + 1; },
    .measure = measure_mask_out,
    .add = add_mask_out};
constexpr Pass kAngles = {.num_pieces = [](const model::Decoder&, const ProbeBatch&) { return std::int64_t{1}; },
                          .measure = measure_angles,
                          .add = add_angles};
constexpr Pass kGradients = {
    .num_pieces = [](const model::Decoder&,
                     const ProbeBatch& batch) { return std::ssize(predicting_rows(batch.batch)); },
    .measure = measure_gradients,
    .add = add_gradients};

constexpr std::array kMethods = {
    // ADEPT's default, the best of its ablation.
    ImportanceMethod{"mask_out", "loss increase when the layer is bypassed, in nats per token",
                     FromSequences{kMaskOut, &kMaskOutPass, true, mean}},
    // Sum of |gradient * weight|, as in movement and magnitude pruning.
    ImportanceMethod{"cumulative", "sum of |gradient * weight| over the layer, relative to the largest layer",
                     FromSequences{kFirstOrder, &kGradients, false, share_of_largest}},
    ImportanceMethod{"rank_aggregation", "1 - mean over the kinds of tensors of the layer's rank / number of layers",
                     FromSequences{kFirstOrder, &kGradients, false, mean_rank}},
    // Diagonal of the empirical Fisher information, from per-sequence gradients.
    ImportanceMethod{"fisher", "sum of squared per-sequence gradients over the layer",
                     FromSequences{kSquaredGradient, &kGradients, true, mean}},
    ImportanceMethod{"block_influence", "1 - cosine similarity of the layer's input and output",
                     FromSequences{kAngle, &kAngles, true, mean, &kGradients}},
    // First order of mask_out: the derivative with respect to a factor before the layer's output.
    ImportanceMethod{"taylor_gate", "first-order estimate of mask_out, from one backward pass",
                     FromSequences{kGate, &kGradients, true, mean}},
    // Ours.
    ImportanceMethod{kFirstOrderImprovement, "estimated improvement on --domain by a copy after each layer",
                     FromTexts{first_order_improvement}, true, true, kImprovementFigures, kImprovementFiguresMeaning},
};

}  // namespace

std::span<const ImportanceMethod> importance_methods() { return kMethods; }

const ImportanceMethod* find_importance_method(std::string_view name) {
  const auto found = std::find_if(kMethods.begin(), kMethods.end(), [&](const auto& m) { return m.name == name; });
  return found == kMethods.end() ? nullptr : &*found;
}

const ImportanceMethod& importance_method(std::string_view name) {
  if (const ImportanceMethod* found = find_importance_method(name)) return *found;
  throw ConfigError("importance method: found \"{}\"; expected one of {}.", name, importance_method_names(", "));
}

std::string importance_method_names(std::string_view separator) {
  std::string names;
  for (const ImportanceMethod& method : kMethods)
    names.append(names.empty() ? std::string_view() : separator).append(method.name);
  return names;
}

std::vector<std::string> general_importance_methods() {
  std::vector<std::string> names;
  for (const ImportanceMethod& method : kMethods)
    if (!method.needs_domain) names.emplace_back(method.name);
  return names;
}

std::string general_importance_meanings(std::string_view separator) {
  std::string text;
  for (const ImportanceMethod& method : kMethods)
    if (!method.needs_domain)
      text += fmt::format("{}{}: {}", text.empty() ? "" : separator, method.name, method.meaning);
  return text;
}

at::Tensor first_order_terms(const model::Parameter& p, const at::Tensor& gradient) {
  return (nn::effect_of(*p.tensor, p.offset) * gradient.to(at::kFloat)).abs();
}

double first_order_importance(const model::Parameter& parameter, const at::Tensor& gradient) {
  return first_order_terms(parameter, gradient).sum(at::kDouble).item<double>();
}

}  // namespace adept::method
