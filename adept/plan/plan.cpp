#include "adept/plan/plan.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "adept/core/error.h"
#include "adept/method/expansion.h"
#include "adept/method/selection.h"
#include "adept/model/cost.h"
#include "adept/model/load.h"
#include "adept/model/torch_tensors.h"
#include "adept/optim/row_shard.h"
#include "adept/plan/rehearsal.h"
#include "adept/run/expansion_plan.h"
#include "adept/train/methods.h"
#include "adept/train/sharded_base.h"
#include "adept/train/trainable.h"

namespace adept::plan {
namespace {

constexpr std::int64_t kMostBatch = 1 << 16;  // of train.batch_size
constexpr std::int64_t kMostRanks = 1024;
constexpr std::int64_t kRehearsedTokens = 512;
constexpr std::int64_t kLeastWidth = 512;  // of a model that is rehearsed instead of a wider one
constexpr double kUsable = 0.93;           // the rest is for the libraries, the allocator's gaps and the system
constexpr double kUpdateBytes = 28;    // read and written for each trained parameter: 4 fp32 values, 3 of them twice
constexpr std::int64_t kOutside = -1;  // the layer of tensors outside the layers

/// The model as it trains, on the device meta: shapes and types without values.
class Layout {
 public:
  Layout(const config::RunConfig& config, const model::ModelConfig& base, const io::WeightFiles& files,
         std::span<const int> after, at::ScalarType dtype, std::int64_t ranks)
      : expansion_(expansion_of(config, base, after)),
        decoder_(decoder_of(base, files, dtype)),
        base_(config.dist.shard_base ? divide_base(config, ranks) : nullptr),
        trainable_(decoder_, train::trained_tensors(config, decoder_, expansion_, files.directory(), without_values)),
        optimizer_(trainable_.parameters(), config.train.adamw) {
    for (const optim::Parameter& p : trainable_.parameters()) {
      std::int64_t layer = kOutside;
      std::string local_name;
      model::split_layer_parameter_name(p.name, layer, local_name);
      trained_[layer] += p.master.numel();
    }
  }

  const model::Decoder& decoder() const { return decoder_; }
  /// Sent by a rank for the frozen layers of a micro-batch.
  double bytes_gathered() const {
    if (base_ == nullptr) return 0;
    return static_cast<double>(base_->bytes_received(0) + base_->bytes_received(trainable_.lowest_of_any_graph()));
  }
  const train::Trainable& trainable() const { return trainable_; }
  train::MemoryUse resident() const { return train::resident_memory(decoder_, trainable_, optimizer_); }
  /// Trained elements of a layer; of those outside the layers for kOutside.
  std::int64_t trained(std::int64_t layer) const {
    const auto found = trained_.find(layer);
    return found == trained_.end() ? 0 : found->second;
  }
  Use use(std::int64_t layer) const {
    if (trained(layer) > 0) return Use::kTrained;
    return layer >= trainable_.lowest_of_any_graph() ? Use::kFrozen : Use::kWithoutGraph;
  }

 private:
  static std::optional<method::Expansion> expansion_of(const config::RunConfig& config, const model::ModelConfig& base,
                                                       std::span<const int> after) {
    if (!config.expands()) return std::nullopt;
    const int depth = static_cast<int>(base.num_hidden_layers);
    method::Expansion expansion;
    expansion.base_num_hidden_layers = depth;
    expansion.layers = method::place_copies(after, depth);
    return expansion;
  }

  static at::Tensor without_values(const model::Parameter& p, const at::Tensor& rows) {
    std::vector<std::int64_t> shape = p.shape;
    if (rows.defined()) shape.front() = rows.size(0);
    return at::empty(shape, at::TensorOptions(at::kFloat).device(at::kMeta));
  }

  model::Decoder decoder_of(const model::ModelConfig& base, const io::WeightFiles& files, at::ScalarType dtype) const {
    const std::string where = files.directory().string();
    model::ModelConfig config =
        expansion_ ? model::parse_model_config(method::expand_config(base, expansion_->layers, where), where) : base;
    model::Weights weights;
    for (const model::Parameter& p : model::named_parameters(config, weights)) {
      // Where the type matters, a matrix is frozen, and a layer of the base.
      const io::TensorView* stored = files.find(p.name);
      const bool keeps_type = p.is_matrix() && dtype == at::kFloat && stored != nullptr;
      *p.tensor = at::empty(
          p.shape, at::TensorOptions(keeps_type ? model::to_scalar_type(stored->dtype) : dtype).device(at::kMeta));
    }
    if (config.tie_word_embeddings) weights.lm_head = weights.embed_tokens;
    return {std::move(config), std::move(weights)};
  }

  std::shared_ptr<train::ShardedBase> divide_base(const config::RunConfig& config, std::int64_t ranks) {
    const auto base = std::make_shared<train::ShardedBase>(static_cast<int>(ranks), decoder_.num_layers());
    for (std::int64_t l = 0; l < decoder_.num_layers(); ++l) {
      std::vector<at::Tensor*> frozen;
      for (const model::Parameter& p : model::layer_parameters(decoder_.weights(), l))
        if (!train::trains(config, decoder_.config(), expansion_, p)) frozen.push_back(p.tensor);
      base->take(l, frozen);
    }
    base->reserve();
    decoder_.weights().source = base;
    return base;
  }

  std::optional<method::Expansion> expansion_;
  model::Decoder decoder_;
  std::shared_ptr<train::ShardedBase> base_;  // null: not divided
  train::Trainable trainable_;
  optim::AdamW optimizer_;
  std::map<std::int64_t, std::int64_t> trained_;
};

/// A model with 1 / factor of the width of `model`: the activations of its layers have 1 / factor of the bytes.
struct Narrow {
  model::ModelConfig model;
  std::int64_t factor = 1;
};

model::ModelConfig narrow_by(const model::ModelConfig& model, std::int64_t factor) {
  if (factor == 1) return model;
  Json source = model.source;  // may leave a key to the architecture's default, which is not narrower
  source["hidden_size"] = model.hidden_size / factor;
  source["intermediate_size"] = model.intermediate_size / factor;
  source["num_attention_heads"] = model.num_attention_heads / factor;
  source["num_key_value_heads"] = model.num_key_value_heads / factor;
  return model::parse_model_config(source, "a narrower model");
}

/// At least kLeastWidth wide, so that what does not depend on the width does not count.
Narrow narrowed(const model::ModelConfig& model) {
  Narrow narrow = {.model = model};
  const auto fits = [&](std::int64_t factor) {
    return model.hidden_size >= kLeastWidth * factor && model.hidden_size % factor == 0 &&
           model.intermediate_size % factor == 0 && model.num_attention_heads % factor == 0 &&
           model.num_key_value_heads % factor == 0;
  };
  while (fits(2 * narrow.factor)) narrow.factor *= 2;
  narrow.model = narrow_by(model, narrow.factor);
  return narrow;
}

/// Rehearsed costs of every layer and the head. Where no time is wanted, layers are rehearsed in a narrower model.
class Costs {
 public:
  Costs(const config::RunConfig& config, const Layout& layout, at::ScalarType dtype, bool is_timed) {
    const model::ModelConfig& model = layout.decoder().config();
    // The time of attention depends on the length of a sequence; memory does not.
    const std::int64_t length = is_timed ? config.seq_len : std::min(config.seq_len, kRehearsedTokens);
    const Narrow narrow = is_timed ? Narrow{.model = model} : narrowed(model);
    const RehearsalOptions options{.config = config,
                                   .model = narrow.model,
                                   .dtype = dtype,
                                   .stored_dtype = stored_type(layout),
                                   .rows = (kRehearsedTokens + length - 1) / length,
                                   .tokens = length,
                                   .is_timed = is_timed};
    std::vector<std::size_t> kinds;  // a layer of each kind
    std::map<std::tuple<std::size_t, Use, Place>, PartCost> known;
    bool is_below_graph = true;
    for (std::size_t l = 0; l < model.layers.size(); ++l) {
      const auto is_same = [&](std::size_t k) { return !model::difference(model.layers[k], model.layers[l]); };
      auto kind = std::ranges::find_if(kinds, is_same);
      if (kind == kinds.end()) kind = kinds.insert(kind, l);
      const Use use = layout.use(static_cast<std::int64_t>(l));
      const bool is_lowest = is_below_graph && use != Use::kWithoutGraph;
      const Place place = {.is_lowest = is_lowest,
                           .input_has_graph = !is_lowest || layout.trainable().lowest_of_any_graph() == 0};
      is_below_graph = is_below_graph && !is_lowest;
      const std::tuple key(*kind, use, place);
      auto found = known.find(key);
      if (found == known.end()) {
        PartCost cost = rehearse_layer(options, *kind, use, place);
        const auto factor = static_cast<double>(narrow.factor);
        for (double* bytes : {&cost.kept, &cost.forward, &cost.backward}) *bytes *= factor;
        cost.fixed *= factor * factor;  // gradients and conversions of matrices
        found = known.emplace(key, cost).first;
      }
      layers.push_back(found->second);
    }
    head = head_of(options, narrow.factor, layout);
  }

  std::vector<PartCost> layers;
  PartCost head;

 private:
  // Bytes of the head are linear in the width: those of two narrow models tell those of a wide one.
  static PartCost head_of(const RehearsalOptions& options, std::int64_t factor, const Layout& layout) {
    const Use use = layout.decoder().weights().lm_head.weight.requires_grad() ? Use::kTrained : Use::kFrozen;
    const model::ModelConfig& model = layout.decoder().config();
    if (factor < 4) return rehearse_head(with_model(options, model), use);
    const model::ModelConfig twice = narrow_by(model, factor / 2);
    const PartCost first = rehearse_head(options, use), second = rehearse_head(with_model(options, twice), use);
    const auto at_width = [&](double one, double two) { return one + (two - one) * static_cast<double>(factor - 1); };
    return {.kept = at_width(first.kept, second.kept),
            .forward = at_width(first.forward, second.forward),
            .backward = at_width(first.backward, second.backward),
            .fixed = at_width(first.fixed, second.fixed)};
  }

  static RehearsalOptions with_model(const RehearsalOptions& options, const model::ModelConfig& model) {
    return {.config = options.config,
            .model = model,
            .dtype = options.dtype,
            .stored_dtype = options.stored_dtype,
            .rows = options.rows,
            .tokens = options.tokens,
            .is_timed = options.is_timed};
  }

  // Of the frozen matrices.
  static at::ScalarType stored_type(const Layout& layout) {
    model::Weights weights = layout.decoder().weights();
    for (const model::Parameter& p : model::named_parameters(layout.decoder().config(), weights))
      if (p.layer >= 0 && p.is_matrix() && !p.tensor->requires_grad()) return p.tensor->scalar_type();
    return layout.decoder().dtype();
  }
};

double bytes_of_gradient(const at::Tensor& weight) {
  return weight.requires_grad() ? 4.0 * static_cast<double>(weight.numel()) : 0;
}

// Of optim::gather_rows: the parts of all ranks and the own one, of at least one tensor.
double gather_bytes(const Layout& layout, std::int64_t ranks) {
  if (ranks == 1) return 0;
  std::int64_t most = std::min(optim::kGatheredBytes, 4 * layout.trainable().num_parameters());
  for (const optim::Parameter& p : layout.trainable().parameters())
    most = std::max(most, static_cast<std::int64_t>(p.master.nbytes()));
  return static_cast<double>(most) * (1 + 1 / static_cast<double>(ranks));
}

/// Follows the memory of a step through the passes over the layers.
train::MemoryUse memory_of(const Layout& layout, const Costs& costs, std::int64_t tokens, std::int64_t micro_batches,
                           std::int64_t ranks) {
  const auto n = static_cast<double>(tokens);
  const auto gradient = [&](std::int64_t layer) { return 4.0 * static_cast<double>(layout.trained(layer)); };
  const double all_gradients = 4.0 * static_cast<double>(layout.trainable().num_parameters());
  const std::int64_t depth = std::ssize(costs.layers);
  double kept = 0, peak = 0;
  double gradients = micro_batches > 1 ? all_gradients : 0;  // of the micro-batches before
  const auto at_peak = [&](double bytes) { peak = std::max(peak, kept + gradients + bytes); };
  for (const PartCost& layer : costs.layers) {
    at_peak(layer.forward * n + layer.fixed);
    kept += layer.kept * n;
  }
  // The gradient of a trained head exists with the loss.
  const model::Weights& weights = layout.decoder().weights();
  const double head_gradient = bytes_of_gradient(weights.lm_head.weight);
  kept += costs.head.kept * n + head_gradient;
  at_peak(costs.head.forward * n + costs.head.fixed);
  const double activations = kept;
  at_peak(costs.head.backward * n);
  kept -= costs.head.kept * n;
  for (std::int64_t l = depth; l-- > 0;) {
    const PartCost& layer = costs.layers[static_cast<std::size_t>(l)];
    if (layout.use(l) == Use::kWithoutGraph) continue;
    at_peak(layer.backward * n + layer.fixed);
    kept -= layer.kept * n;
    if (micro_batches == 1) gradients += gradient(l);
  }
  // A tied matrix has a second gradient, which is added to the head's.
  at_peak(bytes_of_gradient(weights.embed_tokens.weight));
  peak = std::max(peak, all_gradients + gather_bytes(layout, ranks));
  train::StepResult step;
  step.activation_bytes = static_cast<std::int64_t>(activations);
  step.gradient_bytes = static_cast<std::int64_t>(all_gradients);
  train::MemoryUse resident = layout.resident();
  const std::int64_t of_others = resident.moments - (resident.moments + ranks - 1) / ranks;  // ZeRO-1
  resident.moments -= of_others;
  resident.peak -= of_others;
  return train::step_memory(resident, step, micro_batches, static_cast<std::int64_t>(peak));
}

double necessary_flops(const Layout& layout, const config::RunConfig& config) {
  const model::StepCost cost =
      model::step_cost(layout.decoder().weights(), layout.trainable().lowest_layer(), config.seq_len);
  const auto tokens = static_cast<double>(config.train.batch_size * config.train.grad_accum * config.seq_len);
  return tokens * (cost.flops + cost.prefix_flops);
}

StepTime time_of(const Layout& layout, const config::RunConfig& config, const Costs& costs, const Machine& machine,
                 double flops, const Plan& plan) {
  const auto tokens = static_cast<double>(config.train.batch_size * config.train.grad_accum * config.seq_len);
  const auto trained = static_cast<double>(layout.trainable().num_parameters());
  StepTime time;
  if (machine.is_this_one) {
    for (const PartCost& layer : costs.layers) time.layers += tokens * layer.seconds;
    time.head = tokens * costs.head.seconds;
    time.update = trained * rehearse_update();
  } else {
    const bool is_fp32 = layout.decoder().dtype() == at::kFloat;
    const double rate = machine.efficiency * (is_fp32 ? machine.matmul_flops_fp32 : machine.matmul_flops);
    const auto& head = layout.decoder().weights().lm_head.weight;
    const double of_head = tokens * static_cast<double>(head.numel()) * (head.requires_grad() ? 6 : 4);
    time.head = std::min(of_head, flops) / rate;
    time.layers = flops / rate - time.head;
    time.update = trained * kUpdateBytes / machine.memory_bandwidth;
  }
  const bool one_host = plan.ranks <= machine.devices_per_host;
  const double bandwidth = one_host ? machine.link_bandwidth : machine.network_bandwidth;
  if (plan.ranks > 1 && bandwidth > 0)
    time.communication = plan.bytes_sent / bandwidth + std::max(0.0, plan.bytes_gathered / bandwidth - time.layers);
  return time;
}

// A ring: each rank sends (n - 1) / n of the gradients twice (reduce-scatter, all-gather), and as much of the weights.
double ring_bytes(double trained, std::int64_t ranks) {
  const auto n = static_cast<double>(ranks);
  return 3 * 4 * trained * (n - 1) / n;
}

/// What would take less memory, or fit, if the configuration does not: smaller changes first.
class Adviser {
 public:
  /// Referenced objects must outlive it.
  Adviser(const config::RunConfig& config, const PlanOptions& options, const model::ModelConfig& base,
          const io::WeightFiles& files, const Plan& plan, const Costs& costs)
      : config_(config), options_(options), base_(base), files_(files), plan_(plan), costs_(costs) {}

  std::vector<Advice> advise() {
    advise_less_at_a_time();
    const bool leaves_frozen = config_.method != train::Method::kFull && config_.method != train::Method::kReplay;
    if (leaves_frozen && !options_.machine.is_this_one) advise_sharing();
    return std::move(advice_);
  }

 private:
  using Checkpointing = train::ActivationCheckpointing;

  void advise_less_at_a_time() {
    if (config_.train.batch_size > 1) add({.one_row = true});
    if (config_.train.activation_checkpointing == Checkpointing::kFull) return;
    add({.recomputes = true});
    if (config_.train.batch_size > 1) add({.recomputes = true, .one_row = true});
  }

  void advise_sharing() {
    const Change least = {.shares = true,
                          .recomputes = config_.train.activation_checkpointing != Checkpointing::kFull,
                          .one_row = config_.train.batch_size > 1};
    if (options_.ranks > 1 && !config_.dist.shard_base) {
      if (add({.shares = true})) return;
      if ((least.recomputes || least.one_row) && add(least)) return;
    }
    for (std::int64_t ranks = std::max<std::int64_t>(2, options_.ranks * 2); ranks <= kMostRanks; ranks *= 2) {
      Change more = least;
      more.ranks = ranks;
      if (add(more)) return;
      advice_.pop_back();
    }
  }

  struct Change {
    std::int64_t ranks = 0;  // 0: as planned
    bool shares = false, recomputes = false, one_row = false;
  };

  /// Whether that fits.
  bool add(const Change& change) {
    config::RunConfig config = config_;
    std::vector<std::string> texts;
    if (change.ranks > 0) texts.push_back(fmt::format("--gpus {}", change.ranks));
    if (change.shares) texts.emplace_back("dist.shard_base: true");
    if (change.recomputes) texts.emplace_back("train.activation_checkpointing: full");
    if (change.one_row) texts.emplace_back("train.batch_size: 1");
    config.dist.shard_base |= change.shares;
    if (change.recomputes) config.train.activation_checkpointing = Checkpointing::kFull;
    if (change.one_row) config.train.batch_size = 1;
    const std::int64_t ranks = change.ranks > 0 ? change.ranks : options_.ranks;
    const at::ScalarType dtype = model::to_scalar_type(config.compute.decided_dtype());
    const Layout layout(config, base_, files_, plan_.after, dtype, ranks);
    if (change.recomputes && !recomputed_) recomputed_.emplace(config, layout, dtype, /*is_timed=*/false);
    const Costs& costs = change.recomputes ? *recomputed_ : costs_;
    const std::int64_t tokens = config.train.batch_size * config.seq_len;
    advice_.push_back({fmt::format("{}", fmt::join(texts, ", ")),
                       memory_of(layout, costs, tokens, config.train.grad_accum, ranks).peak});
    return advice_.back().peak <= plan_.usable;
  }

  const config::RunConfig& config_;
  const PlanOptions& options_;
  const model::ModelConfig& base_;
  const io::WeightFiles& files_;
  const Plan& plan_;
  const Costs& costs_;
  std::optional<Costs> recomputed_;
  std::vector<Advice> advice_;
};

}  // namespace

Plan make_plan(const config::RunConfig& config, const std::filesystem::path& model_dir, const PlanOptions& options) {
  const model::ModelConfig base = model::read_model_config(model_dir);
  const io::WeightFiles files = model::open_weights(base, model_dir);
  const at::ScalarType dtype = model::to_scalar_type(config.compute.decided_dtype());
  Plan plan;
  plan.ranks = options.ranks;
  plan.steps = options.steps;
  if (config.expands()) {
    method::SelectionOptions expand = config.expand;
    run::check_expansion(expand, base, model_dir.string());
    plan.assumes_layers = expand.needs_scores();
    if (plan.assumes_layers) expand.strategy = method::kUniformLayers;
    plan.after = run::choose_layers(expand, base, config.seq_len, std::nullopt);
  }
  train::check_method(config, base, model_dir);
  if (config.dist.shard_base && options.ranks == 1)
    throw ConfigError("dist.shard_base: found true for one rank; expected several (--gpus), or false.");
  const Layout layout(config, base, files, plan.after, dtype, options.ranks);
  const Costs costs(config, layout, dtype, options.machine.is_this_one);
  const auto memory = [&](const Costs& of, std::int64_t batch_size) {
    return memory_of(layout, of, batch_size * config.seq_len, config.train.grad_accum, options.ranks);
  };
  const auto trained = static_cast<double>(layout.trainable().num_parameters());
  plan.parameters = model::num_parameters(layout.decoder().config());
  plan.trained_parameters = layout.trainable().num_parameters();
  plan.tokens_per_step = config.train.batch_size * config.train.grad_accum * config.seq_len * options.ranks;
  plan.flops_per_step = necessary_flops(layout, config);
  plan.memory = memory(costs, config.train.batch_size);
  plan.usable = static_cast<std::int64_t>(kUsable * static_cast<double>(options.machine.memory));
  if (options.machine.is_this_one) plan.usable /= options.ranks;
  plan.bytes_sent = ring_bytes(trained, options.ranks);
  plan.bytes_gathered = layout.bytes_gathered() * static_cast<double>(config.train.grad_accum);
  plan.time = time_of(layout, config, costs, options.machine, plan.flops_per_step, plan);
  for (std::int64_t step = kMostBatch; step > 0; step /= 2)
    if (plan.largest_batch + step <= kMostBatch && memory(costs, plan.largest_batch + step).peak <= plan.usable)
      plan.largest_batch += step;
  if (plan.largest_batch > 0) plan.largest_batch_peak = memory(costs, plan.largest_batch).peak;
  if (!plan.fits()) plan.advice = Adviser(config, options, base, files, plan, costs).advise();
  return plan;
}

}  // namespace adept::plan
