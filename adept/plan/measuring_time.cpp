#include "adept/plan/measuring_time.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <span>
#include <utility>

#include "adept/model/cost.h"
#include "adept/run/preflight.h"

namespace adept::plan {
namespace {

using run::BatchLengths;
using run::DividedBatches;

constexpr std::array kUses = {Use::kWithoutGraph, Use::kFrozen, Use::kTrained};

// How often each layer and the head compute a token: by what they compute.
class Passes {
 public:
  explicit Passes(std::int64_t num_layers) : layers_(static_cast<std::size_t>(num_layers)) {}

  std::int64_t num_layers() const { return std::ssize(layers_); }
  void add(std::int64_t layer, Use use, double count = 1) {
    layers_[static_cast<std::size_t>(layer)][index(use)] += count;
  }
  void add_all(Use use, double count = 1) {
    for (std::int64_t l = 0; l < num_layers(); ++l) add(l, use, count);
  }
  void add_head(Use use, double count = 1) { head_[index(use)] += count; }

  double of_layer(std::int64_t layer, Use use) const { return layers_[static_cast<std::size_t>(layer)][index(use)]; }
  double of_head(Use use) const { return head_[index(use)]; }

 private:
  static std::size_t index(Use use) { return static_cast<std::size_t>(use); }

  std::vector<std::array<double, kUses.size()>> layers_;
  std::array<double, kUses.size()> head_{};
};

// Of a measurement. `share`: of how many ranks that divide a batch by layers one computes.
using PassesOf = std::function<Passes(std::int64_t share)>;

PassesOf evaluation(std::int64_t num_layers) {
  return [=](std::int64_t) {
    Passes passes(num_layers);
    passes.add_all(Use::kWithoutGraph);
    passes.add_head(Use::kWithoutGraph);
    return passes;
  };
}

// The input of each layer once, and, without it, the layers above.
PassesOf masking(std::int64_t num_layers) {
  return [=](std::int64_t share) {
    const auto ranks = static_cast<double>(share);
    Passes passes(num_layers);
    for (std::int64_t l = 0; l < num_layers; ++l) passes.add(l, Use::kWithoutGraph, 1 + static_cast<double>(l) / ranks);
    passes.add_head(Use::kWithoutGraph, static_cast<double>(num_layers + 1) / ranks);
    return passes;
  };
}

// All layers forward, then each of `uses` from `lowest` on again, with gradients (model::visit_layer_gradients).
Passes gradients(std::span<const Use> uses, std::int64_t lowest) {
  Passes passes(std::ssize(uses));
  passes.add_all(Use::kWithoutGraph);
  passes.add_head(Use::kFrozen);
  for (std::int64_t l = lowest; l < std::ssize(uses); ++l) passes.add(l, uses[static_cast<std::size_t>(l)]);
  return passes;
}

// The gradient of a copy of each layer takes about as much as that of the layer's input.
PassesOf improvement(std::int64_t num_layers) {
  return [=](std::int64_t) {
    const std::vector<Use> uses(static_cast<std::size_t>(num_layers), Use::kFrozen);
    Passes passes = gradients(uses, 0);
    passes.add_all(Use::kFrozen);
    return passes;
  };
}

// The layers above each copy without it, and all of them with it.
PassesOf effect_of_copies(const Layout& layout) {
  const std::int64_t num_layers = layout.decoder().num_layers();
  return [&layout, num_layers](std::int64_t) {
    Passes passes(num_layers);
    double copies = 0;
    for (std::int64_t l = 0; l < num_layers; ++l) {
      passes.add(l, Use::kWithoutGraph, 1 + copies);
      if (layout.use(l) == Use::kTrained) ++copies;
    }
    passes.add_head(Use::kWithoutGraph, 1 + copies);
    return passes;
  };
}

std::int64_t positions_of(const BatchLengths& batch) { return std::ssize(batch) * std::ranges::max(batch); }

// Each sequence alone.
DividedBatches single_sequences(const DividedBatches& batches) {
  DividedBatches single;
  for (const BatchLengths& batch : batches)
    for (const std::int64_t length : batch) single.push_back({length});
  return single;
}

struct Measurement {
  std::string name;
  const model::ModelConfig& model;
  PassesOf passes;
  std::vector<DividedBatches> texts;  // one after another
  std::int64_t times = 1;
  bool divides_batches = false;  // by layers, where there are fewer batches than ranks
};

class StageTimes {
 public:
  StageTimes(const PlannedTraining& training, Rehearsals& rehearsals, const Machine& machine)
      : training_(training), rehearsals_(rehearsals), machine_(machine), ranks_(training.layout.ranks()) {}

  void add(const Measurement& m) {
    StageTime stage = {.name = m.name, .times = m.times};
    for (const DividedBatches& batches : m.texts) {
      for (const BatchLengths& batch : batches) stage.positions += positions_of(batch);
      stage.seconds += seconds_of_text(m, batches);
    }
    if (m.times == 0 || stage.positions == 0) return;
    stage.flops = static_cast<double>(stage.positions) * flops(m.model, m.passes(1));
    stages_.push_back(std::move(stage));
  }

  std::vector<StageTime> all() && { return std::move(stages_); }

 private:
  // A batch for each rank, or the last ones, of which several ranks may have one.
  struct Round {
    double of_position = 0, of_gathering = 0;  // seconds; ranks gather layers while they compute others
    double seconds(std::span<const BatchLengths> batches) const {
      const std::int64_t most = positions_of(std::ranges::max(batches, {}, positions_of));
      return std::max(static_cast<double>(most) * of_position, of_gathering);
    }
  };

  double seconds_of_text(const Measurement& m, std::span<const BatchLengths> batches) {
    double sum = 0;
    const auto size = static_cast<std::size_t>(ranks_);
    const Round whole = round_of(m, 1);
    for (std::size_t begin = 0; begin < batches.size(); begin += size) {
      const std::size_t count = std::min(batches.size() - begin, size);
      const bool is_divided = m.divides_batches && !training_.config.dist.shard_base && count < size;
      const Round round = is_divided ? round_of(m, ranks_ / static_cast<std::int64_t>(count)) : whole;
      sum += round.seconds(batches.subspan(begin, count));
    }
    return sum;
  }

  Round round_of(const Measurement& m, std::int64_t share) {
    const Passes passes = m.passes(share);
    return {.of_position = seconds(m.model, passes), .of_gathering = seconds_of_gathering(m.model, passes)};
  }

  double flops(const model::ModelConfig& model, const Passes& passes) const {
    double sum = 0;
    for (const Use use : kUses) {
      const bool gradient = use != Use::kWithoutGraph, trains = use == Use::kTrained;
      sum += passes.of_head(use) * model::head_flops(model, gradient);
      for (std::int64_t l = 0; l < passes.num_layers(); ++l)
        sum += passes.of_layer(l, use) * model::layer_flops(model.layers[static_cast<std::size_t>(l)],
                                                            training_.config.seq_len, gradient, trains);
    }
    return sum;
  }

  // Of a token: on this machine from rehearsed times.
  double seconds(const model::ModelConfig& model, const Passes& passes) {
    if (!machine_.is_this_one) return flops(model, passes) / machine_.rate(training_.layout.dtype() == at::kFloat);
    double sum = 0;
    for (const Use use : kUses) {
      if (passes.of_head(use) > 0) sum += passes.of_head(use) * rehearsals_.head(use).seconds;
      for (std::int64_t l = 0; l < passes.num_layers(); ++l)
        if (const double count = passes.of_layer(l, use); count > 0)
          sum += count * rehearsals_.layer(model, static_cast<std::size_t>(l), use).seconds;
    }
    return sum;
  }

  // Of divided layers, in the passes of a batch.
  double seconds_of_gathering(const model::ModelConfig& model, const Passes& passes) const {
    const double bandwidth = machine_.bandwidth(ranks_);
    if (!training_.config.dist.shard_base || bandwidth <= 0) return 0;
    double elements = 0;
    model::Weights slots;
    for (const model::Parameter& p : model::named_parameters(model, slots)) {
      if (p.layer < 0) continue;
      double count = 0;
      for (const Use use : kUses) count += passes.of_layer(p.layer, use);
      elements += count * static_cast<double>(
                              std::accumulate(p.shape.begin(), p.shape.end(), std::int64_t{1}, std::multiplies<>()));
    }
    const auto n = static_cast<double>(ranks_);
    return elements * static_cast<double>(at::elementSize(training_.layout.dtype())) * (n - 1) / n / bandwidth;
  }

  const PlannedTraining& training_;
  Rehearsals& rehearsals_;
  const Machine& machine_;
  std::int64_t ranks_;
  std::vector<StageTime> stages_;
};

void add_probe(const PlannedTraining& training, const run::MeasuredText& text, StageTimes& stages) {
  const model::ModelConfig& base = training.base;
  const std::int64_t depth = base.num_hidden_layers;
  const method::ImportanceMethod& method = method::importance_method(run::probe_method(training.config));
  Measurement probe = {.name = "probe", .model = base, .passes = {}, .texts = {text.probe}};
  if (method.needs_domain) {
    probe.passes = improvement(depth);
    probe.texts.insert(probe.texts.begin(), text.domain);
  } else if (takes_single_sequences(method, training.layout.decoder())) {
    probe.passes = [=](std::int64_t) {
      return gradients(std::vector<Use>(static_cast<std::size_t>(depth), Use::kTrained), 0);
    };
    probe.texts = {single_sequences(text.probe)};
  } else {
    probe.divides_batches = masks_layers(method, training.layout.decoder());
    probe.passes = probe.divides_batches ? masking(depth) : evaluation(depth);
  }
  stages.add(probe);
}

}  // namespace

std::vector<StageTime> measuring_time(const PlannedTraining& training, Rehearsals& rehearsals, const Machine& machine,
                                      const run::MeasuredText& text, std::int64_t steps) {
  const config::RunConfig& config = training.config;
  const Layout& layout = training.layout;
  const model::ModelConfig &base = training.base, &trained = layout.decoder().config();
  const std::int64_t depth = trained.num_hidden_layers;
  const Measures measures(config);
  StageTimes stages(training, rehearsals, machine);
  if (measures.baseline)
    stages.add({.name = "baseline", .model = base, .passes = evaluation(base.num_hidden_layers), .texts = text.eval});
  if (measures.probe) add_probe(training, text, stages);
  if (measures.units) {
    std::vector<Use> uses;
    for (std::int64_t l = 0; l < depth; ++l) uses.push_back(layout.use(l));
    const std::int64_t lowest = layout.trainable().lowest_layer();
    stages.add({.name = "unit importance",
                .model = trained,
                .passes = [=](std::int64_t) { return gradients(uses, lowest); },
                .texts = {text.units},
                .times = (steps + config.unit_lr.update_every - 1) / config.unit_lr.update_every});
  }
  if (measures.eval_in_training)
    stages.add({.name = "eval in training",
                .model = trained,
                .passes = evaluation(depth),
                .texts = text.eval,
                .times = (steps - 1) / config.train.eval_steps});
  if (measures.baseline)
    stages.add({.name = "eval", .model = trained, .passes = evaluation(depth), .texts = text.eval});
  if (measures.copies)
    stages.add({.name = "copies", .model = trained, .passes = effect_of_copies(layout), .texts = text.copies});
  return std::move(stages).all();
}

}  // namespace adept::plan
