#include "adept/plan/measuring.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "adept/core/progress.h"
#include "adept/method/beyond/copies.h"
#include "adept/method/beyond/probe.h"
#include "adept/model/frozen_prefix.h"
#include "adept/model/layer_gradients.h"
#include "adept/nn/cross_entropy.h"
#include "adept/plan/narrow.h"
#include "adept/run/preflight.h"

namespace adept::plan {
namespace {

using Measure = std::function<void(const model::Decoder& decoder, const model::Batch& batch)>;

void evaluate(const model::Decoder& decoder, const model::Batch& batch) {
  const at::NoGradGuard no_grad;
  decoder.token_losses(decoder.forward(batch.input_ids, batch.context()), batch.targets);
}

void measure_units(const model::Decoder& decoder, const model::Batch& batch) {
  std::vector<int> layers(static_cast<std::size_t>(decoder.num_layers()));
  std::iota(layers.begin(), layers.end(), 0);
  model::visit_layer_gradients(decoder, batch, layers, [](const model::LayerGradients& g) {
    for (std::size_t i = 0; i < g.parameters.size(); ++i)
      method::first_order_importance(g.parameters[i], g.gradients[i]);
  });
}

void inspect_copies(const model::Decoder& decoder, const model::Batch& batch) {
  dist::ProcessGroup alone;
  method::Expansion expansion;
  expansion.layers = {{.source = 0, .index = 1}};
  method::inspect_copies(decoder, expansion, {{batch}}, Progress::silent(), alone);
}

model::Batch batch_of(std::int64_t rows) {
  const at::Tensor ids = at::zeros({rows, 2}, at::kLong);
  return {.input_ids = ids, .targets = ids, .num_targets = 2 * rows};
}

// Pieces of a batch that processes can divide.
std::int64_t num_pieces(const method::ImportanceMethod& method, const model::Decoder& decoder, std::int64_t rows) {
  const auto* from = std::get_if<method::FromSequences>(&method.scores);
  return from == nullptr ? 1 : from->pass->num_pieces(decoder, {batch_of(rows)});
}

// Tokens of the longest batch of a sample.
struct Sample {
  std::string batch_key;
  std::int64_t batch_size = 0;
  std::int64_t max_tokens = 0;  // 0: no limit
  std::int64_t tokens(std::int64_t rows, std::int64_t seq_len) const {
    const std::int64_t tokens = rows * seq_len;
    return max_tokens == 0 ? tokens : std::min(tokens, max_tokens);
  }
};

// What a measurement is done with.
struct Held {
  std::int64_t bytes = 0;
  std::int64_t layers = 0;     // that it goes through, or back through
  std::int64_t in_flight = 0;  // bytes of a layer that is gathered while another is computed, beside
};

class Stages {
 public:
  explicit Stages(const PlannedTraining& training)
      : training_(training), narrow_(training.is_exact ? Narrow{.model = training.base} : narrowed(training.base)) {}

  void add(std::string name, const Held& held, const Sample& sample, bool is_single, const Measure& measure) {
    const std::vector<MeasurementCost> costs = rehearse(measure);
    const auto peak = [&](std::int64_t rows) {
      const auto n = static_cast<double>(sample.tokens(rows, training_.config.seq_len));
      double most = 0;
      for (const MeasurementCost& cost : costs) most = std::max(most, bytes(cost, n, held));
      return held.bytes + static_cast<std::int64_t>(most);
    };
    stages_.push_back({.name = std::move(name),
                       .weights = held.bytes,
                       .peak = peak(is_single ? 1 : sample.batch_size),
                       .batch_key = sample.batch_key,
                       .peak_of_one = peak(1)});
  }

  std::vector<StageMemory> all() && { return std::move(stages_); }

 private:
  // Of each kind of layer.
  std::vector<MeasurementCost> rehearse(const Measure& measure) const {
    std::vector<MeasurementCost> costs;
    const auto factor = static_cast<double>(narrow_.factor);
    for (std::size_t l = 0; l < narrow_.model.layers.size(); ++l) {
      if (kind_of(narrow_.model, narrow_.model.layers[l]) != l) continue;
      MeasurementCost cost = rehearse_measurement({.config = training_.config,
                                                   .model = narrow_.model,
                                                   .dtype = training_.layout.dtype(),
                                                   .stored_dtype = training_.layout.stored_dtype()},
                                                  l, measure);
      cost.token *= factor;
      cost.token_of_layer *= factor;
      cost.fixed *= factor * factor;  // gradients and conversions of matrices
      cost.layer *= factor * factor;
      costs.push_back(cost);
    }
    return costs;
  }

  // At a layer, or at the head. Ranks divide what is kept of layers whatever the tokens (the gradients of `gain`).
  double bytes(MeasurementCost cost, double n, const Held& held) const {
    const std::int64_t ranks = training_.layout.ranks();
    const auto layers = static_cast<double>(held.layers), own = static_cast<double>((held.layers + ranks - 1) / ranks);
    cost.layer *= own / std::max(1.0, layers);
    const auto width = static_cast<double>(training_.base.hidden_size) * at::elementSize(training_.layout.dtype());
    const PartCost& head = training_.costs.frozen_head;
    const auto chunk = nn::head_chunk_tokens(static_cast<std::int64_t>(n), training_.base.vocab_size);
    const double at_head = cost.kept(n, layers) + (width + head.kept + head.forward) * n + head.fixed +
                           head.chunk * static_cast<double>(chunk);
    return std::max(cost.at(n, layers) + static_cast<double>(held.in_flight), at_head);
  }

  const PlannedTraining& training_;
  Narrow narrow_;
  std::vector<StageMemory> stages_;
};

}  // namespace

Measures::Measures(const config::RunConfig& config)
    : baseline(!config.data.eval.empty()),
      probe(run::probes(config, config::Purpose::kRun)),
      units(config.unit_lr.uses_importance()),
      eval_in_training(baseline && config.train.eval_steps > 0),
      copies(baseline && config.expands() && config.eval.copies_tokens > 0) {}

bool takes_single_sequences(const method::ImportanceMethod& method, const model::Decoder& decoder) {
  return num_pieces(method, decoder, 2) > num_pieces(method, decoder, 1);
}

bool masks_layers(const method::ImportanceMethod& method, const model::Decoder& decoder) {
  return num_pieces(method, decoder, 1) > 1;
}

std::vector<StageMemory> measuring_memory(const PlannedTraining& training) {
  const auto& [config, base, files, after, layout, costs, memory, communication, is_exact] = training;
  const std::int64_t depth = layout.decoder().num_layers(), ranks = layout.ranks();
  const auto held = [&](std::span<const int> copied, std::int64_t layers) {
    const MeasuredBytes bytes = measured_bytes(config, base, files, copied, ranks);
    return Held{
        .bytes = bytes.weights, .layers = layers, .in_flight = communication.by_gloo ? bytes.largest_divided_layer : 0};
  };
  const Held of_base = held({}, base.num_hidden_layers), of_result = held(after, depth);
  const Held in_training = {.bytes = memory.weights + memory.masters + memory.moments,
                            .layers = depth,
                            .in_flight = communication.by_gloo ? layout.largest_divided_layer() : 0};
  const Sample eval = {"eval.batch_size", config.eval.batch_size, config.eval.max_tokens};
  const auto of_general = [&](std::int64_t max_tokens) {
    const std::int64_t of_source = max_tokens / std::max<std::int64_t>(1, std::ssize(config.data.general));
    return Sample{"probe.batch_size", config.probe.batch_size, of_source};
  };
  Stages stages(training);
  const Measures measures(config);
  if (measures.baseline) stages.add("baseline", of_base, eval, false, evaluate);
  if (measures.probe) {
    const method::ImportanceMethod& method = method::importance_method(run::probe_method(config));
    stages.add("probe", of_base, of_general(config.probe.max_tokens), takes_single_sequences(method, layout.decoder()),
               [&](const model::Decoder& decoder, const model::Batch& batch) {
                 dist::ProcessGroup alone;
                 const std::vector<std::vector<method::ProbeBatch>> rounds = {{{batch}}};
                 method::probe(decoder, {rounds, rounds.front()},
                               {.methods = {std::string(method.name)}, .num_lowest = 1}, Progress::silent(), alone);
               });
  }
  if (measures.units) {
    // Back to the lowest copy, or to its source while it is an identity.
    Held above = in_training;
    above.layers = depth - std::max<std::int64_t>(0, layout.trainable().lowest_layer() - 1);
    stages.add("unit importance", above, of_general(config.unit_lr.probe_tokens), false, measure_units);
  }
  if (measures.eval_in_training) stages.add("eval in training", in_training, eval, false, evaluate);
  if (measures.baseline) stages.add("eval", of_result, eval, false, evaluate);
  if (measures.copies)
    stages.add("copies", of_result, {eval.batch_key, eval.batch_size, config.eval.copies_tokens}, false,
               inspect_copies);
  return std::move(stages).all();
}

}  // namespace adept::plan
