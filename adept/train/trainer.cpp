#include "adept/train/trainer.h"

#include <ATen/Context.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/core/random.h"
#include "adept/core/signals.h"
#include "adept/model/load.h"
#include "adept/train/block_hashes.h"
#include "adept/train/compute.h"
#include "adept/train/export_trained.h"
#include "adept/train/methods.h"
#include "adept/train/sharded_layers.h"

namespace adept::train {
namespace {

constexpr std::string_view kFaultyMachine =
    "The memory or the processor of a machine is probably faulty. Nothing is saved; the last checkpoint is intact: "
    "test the machines, and repeat the command to continue from there.";

}  // namespace

Trainer::Trainer(TrainerInputs inputs)
    : inputs_(std::move(inputs)),
      expansion_(inputs_.config.expands() ? std::optional(method::read_expansion(inputs_.model_dir)) : std::nullopt),
      files_(model::open_weights(model::read_model_config(inputs_.model_dir), inputs_.model_dir)),
      decoder_(load_model()),
      trainable_(decoder_, trained_tensors(inputs_.config, decoder_, expansion_, files_)),
      frozen_(decoder_, trainable_),
      start_(start_of(inputs_.loader)),
      state_(inputs_.run_dir, identify(), std::move(inputs_.loader),
             optim::AdamW(trainable_.parameters(), inputs_.config.train.adamw)),
      rates_(inputs_.config, expansion_, training_units(inputs_.config, expansion_, decoder_, trainable_)),
      account_(decoder_, trainable_, state_.optimizer),
      divergence_(inputs_.config.train.learning_rate, inputs_.run_dir) {
  state_.counts.unit_lr_weights = rates_.first_weights();
}

model::Decoder Trainer::load_model() const {
  const model::LoadOptions options = load_options(inputs_.config.compute);
  if (!inputs_.config.dist.shard_base) return model::load_decoder(inputs_.model_dir, files_, options);
  const model::ModelConfig model = model::read_model_config(inputs_.model_dir);
  const auto trained = [&](const model::Parameter& p) { return trains(inputs_.config, model, expansion_, p); };
  return load_sharded(inputs_.model_dir, files_, options, trained, group_);
}

RunIdentity Trainer::identify() const {
  RunIdentity identity{
      .model = inputs_.model ? *inputs_.model : io::model_identity(io::WeightFiles::open(inputs_.model_dir)),
      .frozen_hash = {},
      .config = deciding_config(inputs_.config)};
  identity.frozen_hash = frozen_hash(identity.model.weights, decoder_, trainable_);
  identity.config["first_sequence"] = start_.sequences;
  if (inputs_.config.unit_lr.uses_importance()) identity.config["probe_text"] = method::fingerprint(inputs_.probe);
  return identity;
}

TrainSummary Trainer::run(bool resume) {
  if (resume)
    state_.restore(trainable_, inputs_.other_mixture);
  else
    require_no_checkpoints(inputs_.run_dir);
  plan();
  prefetcher_.emplace(state_.loader);
  log_.emplace(inputs_.config, inputs_.run_dir, state_.counts, account_);
  kept_activations_.emplace(KeptActivationsInputs{.config = inputs_.config,
                                                  .loader = state_.loader,
                                                  .decoder = decoder_,
                                                  .trainable = trainable_,
                                                  .run_dir = inputs_.run_dir,
                                                  .frozen_hash = state_.identity().frozen_hash,
                                                  .total_sequences = length_.sequences,
                                                  .total_steps = length_.steps,
                                                  .has_eval_text = !inputs_.eval.empty()});
  kept_activations_->open(state_.counts.step);
  // Before the ranks meet, because it reads all weights.
  if (state_.counts.step < length_.steps) frozen_bits_.emplace(decoder_, trainable_, state_.counts.step);
  require_agreement();
  if (decoder_.is_shared()) log_info("{}", decoder_.weights().source->describe(trainable_.lowest_of_any_graph()));
  if (state_.counts.step < length_.steps) log_info("memory before training: {}", describe(account_.resident()));
  try {
    loop();
  } catch (const InterruptedError& error) {
    if (!state_.is_saved()) save();
    throw InterruptedError(fmt::format("{}; saved step {} of {} in {}", error.what(), state_.counts.step, length_.steps,
                                       inputs_.run_dir.string()),
                           error.exit_code());
  } catch (...) {
    kept_activations_->drop();
    throw;
  }
  log_->finish(state_.counts);
  if (num_verified_ > 0) log_info("{} steps were computed twice, with the same bits", format_count(num_verified_));
  const TrainSummary summary = summarize();
  kept_activations_->drop();
  return summary;
}

// The state that every process has, and computes for itself.
dist::HeldByName Trainer::replicated() const {
  const TrainerState& c = state_.counts;
  dist::HeldByName held = {{"steps that are done", {std::to_string(c.step), c.skipped}},
                           {"position in the data", {hash_of(state_.loader.state().dump())}},
                           {"sum of the losses", {fmt::format("{}", c.run_loss_sum)}},
                           {"learning rates of the units", {hash_of(Json(c.unit_lr_weights).dump())}}};
  for (std::size_t i = 0; i < trainable_.parameters().size(); ++i)
    if (!trainable_.is_divided(i))
      held[trainable_.parameters()[i].name] = {hash_of_blocks(block_hashes(trainable_.leaves()[i]))};
  return held;
}

// Found before the first step.
void Trainer::require_agreement() const {
  group_.agree([&] {
    dist::HeldByName held = replicated();
    held["frozen weights"] = {state_.identity().frozen_hash, inputs_.model_dir.string()};
    const Json model = io::to_json(state_.identity().model);
    for (const auto& [part, hash] : model.items())
      held["model: " + part] = {hash.get<std::string>(), inputs_.model_dir.string()};
    held["length of the training"] = {fmt::format("{} steps, {} sequences", length_.steps, length_.sequences)};
    return held;
  });
  if (frozen_bits_) group_.agree([&] { return frozen_bits_->replicated(); }, kFaultyMachine);
}

// A resumed run may have another length than planned; it then follows the new schedule.
void Trainer::plan() {
  const TrainOptions& c = inputs_.config.train;
  TrainerState& counts = state_.counts;
  length_ = training_length(c, state_.loader, start_, counts.step);
  state_.loader.plan(start_.sequences, length_.sequences);
  rates_.plan(length_.steps);
  const std::int64_t planned = std::exchange(counts.total_steps, length_.steps);
  if (planned == 0) return;
  log_info("resuming after step {} of {}", format_count(counts.step), format_count(length_.steps));
  if (planned == length_.steps || counts.step == length_.steps) return;
  state_.changed();
  if (counts.step == planned) counts.evaluation_due = evaluates_now();  // the planned end is no longer the end
  log_info("training {} from {} to {} steps; from step {} on, the learning rate is {:.2e} instead of {:.2e}",
           planned < length_.steps ? "extended" : "shortened", format_count(planned), format_count(length_.steps),
           format_count(counts.step + 1), rates_.at(counts.step),
           c.learning_rate * make_schedule(c, planned).factor(counts.step));
}

void Trainer::loop() {
  const TrainOptions& c = inputs_.config.train;
  TrainerState& counts = state_.counts;
  evaluate_if_due();  // an earlier session was interrupted in it
  while (counts.step < length_.steps) {
    group_.throw_if_interrupted();
    if (rates_.is_update_due(counts)) update_unit_rates();
    const double rate = rates_.at(counts.step);
    const StepResult result = take_step();
    log_->step(counts, result, rate, epoch());
    counts.evaluation_due = evaluates_now();
    evaluate_if_due();
    // While updates are skipped, the weights may be damaged: earlier checkpoints stay, and no new one is written.
    const bool is_due = c.save_steps > 0 && counts.step % c.save_steps == 0 && result.finite;
    if (is_due || counts.step == length_.steps) save();
  }
}

void Trainer::update_unit_rates() {
  const std::int64_t step = state_.counts.step;
  if (step > 0) require_finite();
  TrainerState& counts = state_.counts;
  try {
    rates_.update(counts, kept_activations_->for_update(step), inputs_.probe, group_);
  } catch (const NonFiniteError&) {
    if (step == 0) throw;  // the given model is the cause
    throw divergence_.diverged("a gradient on general text", step);
  }
  log_->importance(counts);
}

StepResult Trainer::take_step() {
  const TrainOptions& c = inputs_.config.train;
  TrainerState& counts = state_.counts;
  account_.begin();
  // ATen's generator (LoRA dropout) gives the same numbers in a resumed run.
  const auto seed = static_cast<std::uint64_t>(inputs_.config.seed);
  const StepDivision division = {
      .group = &group_,
      .deterministic = inputs_.config.dist.deterministic,
      .seed = random_bits(seed, RandomStream::kDropout, static_cast<std::uint64_t>(counts.step)),
      .is_verified = c.verify_every > 0 && (counts.step + 1) % c.verify_every == 0};
  const std::int64_t wanted = std::min(sequences_per_step(c), length_.sequences - state_.loader.num_sequences());
  const std::vector<data::Sequence> sequences = prefetcher_->next_step(wanted, length_.sequences);
  const std::vector<model::Batch> micro_batches = to_micro_batches(sequences, c.batch_size, decoder_.device());
  const std::int64_t read_before = kept_activations_->stats().positions_read;
  const StepResult result =
      train_step(kept_activations_->for_step(sequences), trainable_, state_.optimizer, micro_batches,
                 rates_.of_units(counts), c.max_grad_norm, c.activation_checkpointing, division);
  const model::ActivationCacheStats cache = kept_activations_->stats();
  account_.end(result, sequences, micro_batches, cache.positions_read - read_before, cache.bytes,
               prefetcher_->seconds_waited(), counts);
  if (result.finite && result.num_targets > 0)
    add_losses(counts.source_losses, state_.loader, sequences, result.sequence_losses);
  ++counts.step;
  if (!result.difference.empty()) {
    group_.on_first([&] { state_.set_aside_unverified(); });
    throw unequal_step(counts.step, result.difference, inputs_.run_dir);
  }
  if (division.is_verified) {
    frozen_bits_->verify(counts.step, inputs_.run_dir);
    group_.meet();
    if (result.num_targets > 0 && result.finite) counts.last_verified_step = counts.step;
    num_verified_ += result.num_targets > 0 ? 1 : 0;
  }
  divergence_.after_step(counts, result, micro_batches.front(), c.max_nonfinite_steps, state_.optimizer,
                         kept_activations_->for_reading());
  return result;
}

// No evaluation at the end, because the exported model is evaluated.
bool Trainer::evaluates_now() const {
  const std::int64_t every = inputs_.config.train.eval_steps, step = state_.counts.step;
  return every > 0 && step < length_.steps && step % every == 0;
}

void Trainer::evaluate_if_due() {
  if (!state_.counts.evaluation_due) return;
  require_finite();
  evaluate();
  state_.counts.evaluation_due = false;
  if (state_.is_saved()) state_.changed();  // the checkpoint says that it is due
}

void Trainer::evaluate() {
  const std::int64_t step = state_.counts.step;
  Json values = Json::object();
  for (const eval::EvalSet& set : inputs_.eval) {
    const eval::Metric metric =
        eval::evaluate(kept_activations_->for_evaluation(step), set,
                       {.batch_size = inputs_.config.eval.batch_size, .note = fmt::format("step {}, ", step)}, group_)
            .headline();
    if (!std::isfinite(metric.value))
      throw divergence_.diverged(fmt::format("the {} on {}", metric.name, set.name), step);
    // The generic key, which other tools plot, belongs to the first set.
    const std::string prefix(kEvaluationPrefix);
    if (values.empty()) values[prefix + metric.name] = metric.value;
    values[prefix + set.name + "_" + metric.name] = metric.value;
  }
  if (!values.empty()) log_->evaluation(state_.counts, values, epoch());
}

// Checks before saving and measuring: weights, moments, and the loss on text with a finite loss before.
void Trainer::require_finite() const {
  divergence_.require_finite(state_.counts.step, state_.optimizer,
                             kept_activations_ ? kept_activations_->for_reading() : model::FrozenPrefix(decoder_));
}

void Trainer::save() {
  require_finite();
  frozen_.verify();
  if (frozen_bits_) frozen_bits_->verify(state_.counts.step, inputs_.run_dir);
  group_.agree([&] { return replicated(); }, kFaultyMachine);
  write_checkpoint();
  state_.set_saved();
}

void Trainer::write_checkpoint() {
  const std::int64_t limit = inputs_.config.train.save_total_limit;
  std::string problem = state_.write(limit, group_);
  if (!problem.empty() && group_.max(kept_activations_->in_use() ? 1 : 0) > 0) {
    log_common_warning("{} Retrying without the activation cache.", problem);
    kept_activations_->drop();  // perhaps the disk is full
    problem = state_.write(limit, group_);
  }
  group_.on_first([&] {
    if (!problem.empty()) throw DataError(problem);
  });
}

TrainSummary Trainer::summarize() const {
  const TrainerState& c = state_.counts;
  std::int64_t added = 0;  // to the parameters of the model: adapters
  if (inputs_.config.method == Method::kLora)
    for (const optim::Parameter& p : trainable_.parameters())
      if (!p.name.ends_with(kNewTokenRows)) added += p.numel();
  const auto per_second = [&](double amount) { return c.train_seconds > 0 ? amount / c.train_seconds : 0.0; };
  return {.steps = c.step,
          .total_tokens = c.total_tokens,
          .sources = source_uses(state_.loader, start_.sources),
          .trained_parameters = trainable_.num_parameters(),
          .all_parameters = model::num_parameters(decoder_.config()) + added,
          .nonfinite_steps = c.nonfinite_total,
          .train_loss = c.run_loss_tokens > 0 ? c.run_loss_sum / static_cast<double>(c.run_loss_tokens) : 0.0,
          .final_loss = c.last_loss,
          .train_seconds = c.train_seconds,
          .tokens_per_second = per_second(static_cast<double>(c.total_tokens)),
          .speed_of_light = per_second(c.necessary_flops / account_.meter().matmul_rate()),
          .data_wait = account_.data_wait(),
          .memory = account_.memory(),
          .activation_cache = kept_activations_->stats()};
}

void Trainer::export_model(const std::filesystem::path& out_dir) const {
  require_finite();
  optim::WholeTensors tensors(state_.optimizer.state(), group_);
  tensors.on_first([&] {
    export_trained({.config = inputs_.config,
                    .model_dir = inputs_.model_dir,
                    .trained_from = state_.identity().model,
                    .files = files_,
                    .decoder = decoder_,
                    .trainable = trainable_,
                    .tensors = tensors,
                    .expansion = expansion_,
                    .steps = state_.counts.step,
                    .data = state_.loader.state()},
                   out_dir);
  });
}

}  // namespace adept::train
