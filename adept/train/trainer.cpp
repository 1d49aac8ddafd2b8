#include "adept/train/trainer.h"

#include <ATen/Context.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/random.h"
#include "adept/core/signals.h"
#include "adept/method/units.h"
#include "adept/model/cost.h"
#include "adept/model/load.h"
#include "adept/model/torch_tensors.h"
#include "adept/train/divergence.h"
#include "adept/train/export_trained.h"
#include "adept/train/methods.h"
#include "adept/train/plan.h"
#include "adept/train/unit_rates.h"

namespace adept::train {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

model::Decoder load_decoder(const TrainerInputs& inputs, const io::WeightFiles& files) {
  model::ModelConfig config = model::read_model_config(inputs.model_dir);
  const model::LoadOptions options{
      .dtype = model::to_scalar_type(inputs.config.compute.decided_dtype()),
      .device = inputs.config.compute.device == config::Device::kCuda ? at::kCUDA : at::kCPU};
  model::Weights weights = model::load_weights(config, files, options);
  return {std::move(config), std::move(weights)};
}

std::vector<model::Batch> to_micro_batches(std::span<const data::Sequence> sequences, std::int64_t batch_size,
                                           at::Device device) {
  std::vector<model::Batch> batches;
  for (std::size_t begin = 0; begin < sequences.size(); begin += static_cast<std::size_t>(batch_size)) {
    const std::size_t count = std::min(sequences.size() - begin, static_cast<std::size_t>(batch_size));
    batches.push_back(model::to_batch(data::make_batch(sequences.subspan(begin, count)), device));
  }
  return batches;
}

}  // namespace

Json to_json(const TrainSummary& s) {
  Json json = {{"train_steps", s.steps},
               {"train_loss", s.train_loss},
               {"final_loss", s.final_loss},
               {"train_tokens", s.total_tokens},
               {"train_runtime", s.train_seconds},
               {"train_tokens_per_second", s.tokens_per_second},
               {"trained_parameters", s.trained_parameters},
               {"all_parameters", s.all_parameters},
               {"nonfinite_steps", s.nonfinite_steps},
               {"speed_of_light", s.speed_of_light}};
  if (s.memory.peak == 0) return json;  // no step in this session
  json["memory_bytes"] = to_json(s.memory);
  json["activation_cache"] = {{"bytes", s.activation_cache.bytes},
                              {"positions_read", s.activation_cache.positions_read},
                              {"positions_computed", s.activation_cache.positions_computed}};
  return json;
}

Trainer::Trainer(TrainerInputs inputs)
    : inputs_(std::move(inputs)),
      expansion_(inputs_.config.expands() ? std::optional(method::read_expansion(inputs_.model_dir)) : std::nullopt),
      files_(model::open_weights(model::read_model_config(inputs_.model_dir), inputs_.model_dir)),
      decoder_(load_decoder(inputs_, files_)),
      trainable_(decoder_, trained_tensors(inputs_.config, decoder_, expansion_, files_)),
      frozen_(decoder_, trainable_),
      optimizer_(trainable_.parameters(), inputs_.config.train.adamw),
      meter_(matmul_rate(decoder_.dtype(), decoder_.device(), matmul_rate_file())) {
  start_ = start_of(inputs_.loader);
  identity_ = {.model = inputs_.model ? *inputs_.model : io::model_identity(io::WeightFiles::open(inputs_.model_dir)),
               .frozen_hash = {},
               .config = deciding_config(inputs_.config)};
  identity_.frozen_hash = frozen_hash(identity_.model.weights, decoder_, trainable_);
  identity_.config["first_sequence"] = start_.sequences;
  if (inputs_.config.unit_lr.policy != method::UnitLrPolicy::kUniform)
    identity_.config["probe_text"] = method::fingerprint(inputs_.probe);
  units_ = training_units(inputs_.config, expansion_, decoder_, trainable_);
  for (const method::Unit& unit : units_) state_.unit_lr_weights[unit.name] = 1.0;
  apply_factors(inputs_.config.unit_lr.factors, state_.unit_lr_weights);
}

TrainSummary Trainer::run(bool resume) {
  restore(resume);
  plan();
  open_records();
  kept_activations_.emplace(KeptActivationsInputs{.config = inputs_.config,
                                                  .loader = inputs_.loader,
                                                  .decoder = decoder_,
                                                  .trainable = trainable_,
                                                  .run_dir = inputs_.run_dir,
                                                  .frozen_hash = identity_.frozen_hash,
                                                  .total_sequences = length_.sequences,
                                                  .total_steps = length_.steps,
                                                  .has_eval_text = !inputs_.eval.empty()});
  kept_activations_->open(state_.step);
  if (state_.step < length_.steps)
    spdlog::info("memory before training: {}", describe(resident_memory(decoder_, trainable_, optimizer_)));
  try {
    loop();
  } catch (const InterruptedError& error) {
    if (saved_step_ != state_.step) save();
    throw InterruptedError(fmt::format("{}; step {} of {} is saved in {}", error.what(), state_.step, length_.steps,
                                       inputs_.run_dir.string()),
                           error.exit_code());
  } catch (...) {
    kept_activations_->drop();
    throw;
  }
  console_->finish(state_.last_loss);
  const TrainSummary summary = summarize();
  kept_activations_->drop();
  return summary;
}

void Trainer::loop() {
  const config::TrainConfig& c = inputs_.config.train;
  evaluate_if_due();  // an earlier session was interrupted at it
  while (state_.step < length_.steps) {
    throw_if_interrupted();
    update_unit_rates();
    const StepResult result = take_step();
    check_nonfinite(result);
    log_step(result);
    const bool last = state_.step == length_.steps;
    state_.evaluation_due = evaluates_now();
    evaluate_if_due();
    // In a row of skipped updates the weights may be what is wrong: the checkpoints before it stay, and no other is
    // made.
    const bool due = c.save_steps > 0 && state_.step % c.save_steps == 0 && result.finite;
    if (last || due) save();
  }
}

// The end is no step of its own to evaluate after: the exported model is evaluated.
bool Trainer::evaluates_now() const {
  const std::int64_t every = inputs_.config.train.eval_steps;
  return every > 0 && state_.step < length_.steps && state_.step % every == 0;
}

void Trainer::restore(bool resume) {
  if (!resume) return require_no_checkpoints(inputs_.run_dir);
  if (auto loaded = load_newest_checkpoint(inputs_.run_dir, identity_, optimizer_)) {
    state_ = std::move(*loaded);
    trainable_.publish();
    inputs_.loader.load_state(state_.loader, fmt::format("checkpoint-{}", state_.step));
    known_whole_ = {inputs_.run_dir / fmt::format("checkpoint-{}", state_.step)};
    saved_step_ = state_.step;
  }
}

// A resumed run may have another length than it was to have: its schedule is the new one from here on.
void Trainer::plan() {
  const config::TrainConfig& c = inputs_.config.train;
  length_ = training_length(c, inputs_.loader, start_, state_.step);
  schedule_ = make_schedule(c, length_.steps);
  const std::int64_t planned = std::exchange(state_.total_steps, length_.steps);
  if (planned == 0) return;
  spdlog::info("resuming after step {} of {}", format_count(state_.step), format_count(length_.steps));
  if (planned == length_.steps || state_.step == length_.steps) return;
  saved_step_ = -1;
  if (state_.step == planned) state_.evaluation_due = evaluates_now();  // it was the end, and is no longer
  spdlog::info("the training is {} from {} to {} steps; from step {} on the learning rate is {:.2e} instead of {:.2e}",
               planned < length_.steps ? "extended" : "shortened", format_count(planned), format_count(length_.steps),
               format_count(state_.step + 1), c.learning_rate * schedule_.factor(state_.step),
               c.learning_rate * make_schedule(c, planned).factor(state_.step));
}

void Trainer::open_records() {
  sinks_ =
      make_metric_sinks(inputs_.config.train.report_to,
                        {.run_dir = inputs_.run_dir, .step = state_.step, .evaluates_at_start = state_.evaluation_due});
  console_.emplace(state_.step, length_.steps);
  // The probe before step n belongs to the steps from n on: it is made again.
  const std::filesystem::path importance_file = inputs_.run_dir / kImportanceLog;
  if (inputs_.config.unit_lr.policy == method::UnitLrPolicy::kUniform)
    std::filesystem::remove(importance_file);  // of other settings
  else
    importance_log_ = std::make_unique<JsonlFile>(importance_file, "step", state_.step - 1);
}

void Trainer::update_unit_rates() {
  if (inputs_.config.unit_lr.policy == method::UnitLrPolicy::kUniform) return;
  if (!state_.unit_importance.empty() && state_.step % inputs_.config.unit_lr.update_every != 0) return;
  Progress progress("importance", static_cast<std::int64_t>(inputs_.probe.size()),
                    {.unit = "batches", .source = fmt::format("step {}", state_.step), .is_passing = true});
  const method::UnitLrOptions& c = inputs_.config.unit_lr;
  const model::FrozenPrefix model = kept_activations_->for_update(state_.step);
  const method::UnitValues measured = [&] {
    if (state_.step == 0) return method::unit_importance(*expansion_, units_, model, inputs_.probe, progress);
    require_finite();
    try {
      return method::unit_importance(*expansion_, units_, model, inputs_.probe, progress);
    } catch (const NonFiniteError&) {  // as it was before the training
      throw diverged("a gradient on general text", state_.step, inputs_.config.train.learning_rate, inputs_.run_dir);
    }
  }();
  progress.finish();
  state_.unit_importance = method::smoothed(state_.unit_importance, measured, c.ema.value_or(0));
  state_.unit_lr_weights =
      method::unit_lr_weights(inputs_.config.unit_lr.policy, units_, state_.unit_importance, c.floor);
  apply_factors(c.factors, state_.unit_lr_weights);
  importance_log_->log(importance_line(state_.unit_importance, state_.unit_lr_weights), state_.step);
}

optim::ParameterRates Trainer::learning_rates() const {
  const double rate = inputs_.config.train.learning_rate * schedule_.factor(state_.step);
  optim::ParameterRates rates;
  for (const method::Unit& unit : units_)
    rates[unit.parameter].push_back(
        {.dim = unit.dim, .begin = unit.begin, .end = unit.end, .rate = rate * state_.unit_lr_weights.at(unit.name)});
  return rates;
}

StepResult Trainer::take_step() {
  const config::TrainConfig& c = inputs_.config.train;
  const double start = now_seconds();
  // What draws from ATen's generator (LoRA's dropout) draws the same in a resumed run.
  const auto seed = static_cast<std::uint64_t>(inputs_.config.seed);
  at::manual_seed(random_bits(seed, RandomStream::kDropout, static_cast<std::uint64_t>(state_.step)));
  const std::int64_t wanted = std::min(c.batch_size * c.grad_accum, length_.sequences - inputs_.loader.num_sequences());
  const std::vector<data::Sequence> sequences = inputs_.loader.next_step(wanted);
  const std::vector<model::Batch> micro_batches = to_micro_batches(sequences, c.batch_size, decoder_.device());
  const std::int64_t read_before = kept_activations_->stats().positions_read;
  const StepBytes step_bytes(decoder_.device());
  const StepResult result = train_step(kept_activations_->for_step(sequences), trainable_, optimizer_, micro_batches,
                                       learning_rates(), c.max_grad_norm, c.activation_checkpointing);
  measure_memory(result, std::ssize(micro_batches), step_bytes.most());
  const std::int64_t read = kept_activations_->stats().positions_read - read_before;
  measure_speed(sequences, micro_batches, read, now_seconds() - start);
  if (result.finite) last_finite_batch_ = micro_batches.front();
  ++state_.step;
  return result;
}

// Of a step that read `read` positions from the activation cache.
void Trainer::measure_speed(std::span<const data::Sequence> sequences, std::span<const model::Batch> micro_batches,
                            std::int64_t read, double seconds) {
  std::int64_t positions = 0;  // padding is read and computed too
  for (const model::Batch& batch : micro_batches) positions += batch.num_positions();
  const double computed = 1 - static_cast<double>(read) / static_cast<double>(positions);
  std::int64_t tokens = 0;
  double flops = 0;
  for (const data::Sequence& sequence : sequences) {
    const auto length = static_cast<std::int64_t>(sequence.tokens.size());
    const model::StepCost cost = model::step_cost(decoder_.weights(), trainable_.lowest_layer(), length);
    tokens += length;
    flops += static_cast<double>(length) * (cost.flops + computed * cost.prefix_flops);
  }
  state_.total_tokens += tokens;
  state_.train_seconds += seconds;
  state_.necessary_flops += flops;
  const double rate_before = meter_.matmul_rate();
  meter_.add(seconds, tokens, flops);
  if (meter_.matmul_rate() > rate_before)
    keep_matmul_rate(meter_.matmul_rate(), decoder_.dtype(), decoder_.device(), matmul_rate_file());
  if (meter_.speed_of_light() > StepMeter::kDoubtful && !rate_was_checked_) {
    rate_was_checked_ = true;
    meter_.raise_rate(measure_matmul_rate(decoder_.dtype(), decoder_.device(), matmul_rate_file()));
  }
}

// The account is that of the step that needed most; it is logged after the first.
void Trainer::measure_memory(const StepResult& result, std::int64_t num_micro_batches, std::int64_t step_bytes) {
  const MemoryUse memory =
      step_memory(resident_memory(decoder_, trainable_, optimizer_), result, num_micro_batches, step_bytes);
  const bool is_first = memory_.peak == 0;
  if (memory.peak > memory_.peak) memory_ = memory;
  memory_.cache = kept_activations_->stats().bytes;  // it grows from step to step
  if (is_first) spdlog::info("memory of a step: {}", describe(memory_));
}

void Trainer::check_nonfinite(const StepResult& result) {
  if (result.finite) {
    state_.nonfinite_in_row = 0;
    return;
  }
  ++state_.nonfinite_in_row;
  ++state_.nonfinite_total;
  if (state_.nonfinite_in_row == 1) require_finite();  // or is it the weights?
  spdlog::warn("step {}: loss {} and gradient norm {}: not finite, the update is skipped ({} in a row)", state_.step,
               result.loss, result.grad_norm, state_.nonfinite_in_row);
  if (state_.nonfinite_in_row < inputs_.config.train.max_nonfinite_steps) return;
  throw NonFiniteError(fmt::format(
      "{} steps in a row up to step {} had a loss or gradient that is not finite "
      "(train.max_nonfinite_steps). No update was made in them; "
      "the last state before them is {}. Look at the data, or start anew in another output_dir with a lower "
      "train.learning_rate.",
      state_.nonfinite_in_row, state_.step, last_state(inputs_.run_dir, state_.step - state_.nonfinite_in_row)));
}

void Trainer::log_step(const StepResult& result) {
  if (result.finite) {
    state_.loss_sum += result.loss * static_cast<double>(result.num_targets);
    state_.loss_tokens += result.num_targets;
    state_.run_loss_sum += result.loss * static_cast<double>(result.num_targets);
    state_.run_loss_tokens += result.num_targets;
  }
  const double rate = inputs_.config.train.learning_rate * schedule_.factor(state_.step - 1);
  console_->log({{"loss", result.loss},
                 {"grad_norm", result.grad_norm},
                 {"lr", rate},
                 {"throughput", meter_.tokens_per_second()},
                 {"speed_of_light", meter_.speed_of_light()}},
                state_.step);
  if (state_.step % inputs_.config.train.logging_steps != 0 && state_.step != length_.steps) return;
  if (state_.loss_tokens > 0) state_.last_loss = state_.loss_sum / static_cast<double>(state_.loss_tokens);
  log({{"loss", state_.loss_tokens > 0 ? Json(state_.last_loss) : Json()},
       {"lr", rate},
       {"grad_norm", result.grad_norm},
       {"speed_of_light", meter_.speed_of_light()},
       {"memory_bytes", to_json(memory_)},
       {"nonfinite_steps", state_.nonfinite_total}});
  state_.loss_sum = 0;
  state_.loss_tokens = 0;
}

// What is saved and measured was checked: weights, moments, and the loss of text on which it was finite.
void Trainer::require_finite() const {
  const model::FrozenPrefix model = kept_activations_ ? kept_activations_->for_reading() : decoder_;
  const std::string what = find_nonfinite(optimizer_, model, last_finite_batch_ ? &*last_finite_batch_ : nullptr);
  if (!what.empty()) throw diverged(what, state_.step, inputs_.config.train.learning_rate, inputs_.run_dir);
}

void Trainer::evaluate_if_due() {
  if (!state_.evaluation_due) return;
  require_finite();
  const model::FrozenPrefix model = kept_activations_->for_evaluation(state_.step);
  Json extra = Json::object();
  for (const eval::EvalSet& set : inputs_.eval) {
    const eval::Metric metric =
        eval::evaluate(model, set,
                       {.batch_size = inputs_.config.eval.batch_size, .note = fmt::format("step {}, ", state_.step)})
            .headline();
    if (!std::isfinite(metric.value))
      throw diverged(fmt::format("the {} on {}", metric.name, set.name), state_.step,
                     inputs_.config.train.learning_rate, inputs_.run_dir);
    // The plain key, which generic tools plot, is the first set's.
    if (extra.empty()) extra["eval_" + metric.name] = metric.value;
    extra["eval_" + set.name + "_" + metric.name] = metric.value;
  }
  if (!extra.empty()) log(extra);
  state_.evaluation_due = false;
  if (saved_step_ == state_.step) saved_step_ = -1;  // what is saved says that it is due
}

void Trainer::log(const Json& values) {
  const Json line =
      to_json(LogLine{.percentage = 100.0 * static_cast<double>(state_.step) / static_cast<double>(length_.steps),
                      .total_steps = length_.steps,
                      .epoch = inputs_.loader.epochs(0),
                      .elapsed_seconds = state_.train_seconds,
                      .remaining_seconds = meter_.seconds_per_step() * static_cast<double>(length_.steps - state_.step),
                      .throughput = meter_.tokens_per_second(),
                      .total_tokens = state_.total_tokens,
                      .extra = values});
  for (const auto& sink : sinks_) sink->log(line, state_.step);
}

void Trainer::save() {
  require_finite();
  frozen_.verify();
  state_.loader = inputs_.loader.state();
  try {
    save_checkpoint(inputs_.run_dir, state_, identity_, optimizer_);
  } catch (const DataError& error) {
    if (!kept_activations_->in_use()) throw;
    spdlog::warn("{} Trying again without the activation cache.", error.what());
    kept_activations_->drop();  // perhaps the disk is full
    save_checkpoint(inputs_.run_dir, state_, identity_, optimizer_);
  }
  known_whole_.insert(inputs_.run_dir / fmt::format("checkpoint-{}", state_.step));
  if (state_.nonfinite_in_row == 0)
    prune_checkpoints(inputs_.run_dir, inputs_.config.train.save_total_limit, known_whole_);
  saved_step_ = state_.step;
}

TrainSummary Trainer::summarize() const {
  return {.steps = state_.step,
          .total_tokens = state_.total_tokens,
          .trained_parameters = trainable_.num_parameters(),
          .all_parameters = model::num_parameters(decoder_.config()) +
                            (inputs_.config.method == config::Method::kLora ? trainable_.num_parameters() : 0),
          .nonfinite_steps = state_.nonfinite_total,
          .train_loss =
              state_.run_loss_tokens > 0 ? state_.run_loss_sum / static_cast<double>(state_.run_loss_tokens) : 0.0,
          .final_loss = state_.last_loss,
          .train_seconds = state_.train_seconds,
          .tokens_per_second =
              state_.train_seconds > 0 ? static_cast<double>(state_.total_tokens) / state_.train_seconds : 0.0,
          .speed_of_light =
              state_.train_seconds > 0 ? state_.necessary_flops / meter_.matmul_rate() / state_.train_seconds : 0.0,
          .memory = memory_,
          .activation_cache = kept_activations_->stats()};
}

void Trainer::export_model(const std::filesystem::path& out_dir) const {
  require_finite();
  export_trained({.config = inputs_.config,
                  .model_dir = inputs_.model_dir,
                  .trained_from = identity_.model,
                  .files = files_,
                  .decoder = decoder_,
                  .trainable = trainable_,
                  .expansion = expansion_,
                  .steps = state_.step,
                  .data = inputs_.loader.state()},
                 out_dir);
}

}  // namespace adept::train
