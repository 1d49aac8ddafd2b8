#include "adept/train/plan.h"

#include <cmath>

#include "adept/core/error.h"
#include "adept/io/record.h"
#include "adept/train/checkpoint.h"

namespace adept::train {
namespace {

optim::ScheduleKind schedule_kind(config::LrScheduler scheduler) {
  switch (scheduler) {
    case config::LrScheduler::kConstant:
      return optim::ScheduleKind::kConstant;
    case config::LrScheduler::kLinear:
      return optim::ScheduleKind::kLinear;
    case config::LrScheduler::kCosine:
      return optim::ScheduleKind::kCosine;
    case config::LrScheduler::kWsd:
      return optim::ScheduleKind::kWsd;
  }
  throw InternalError("unknown lr_scheduler");
}

ConfigError too_short(const std::string& where, std::int64_t wanted, std::int64_t done) {
  return ConfigError(
      "train.max_steps: found {}, but {} has {} steps already; expected at least that many, or another output_dir.",
      wanted, where, done);
}

}  // namespace

optim::AdamWOptions adamw_options(const config::TrainConfig& c) {
  return {.beta1 = c.adam_beta1, .beta2 = c.adam_beta2, .eps = c.adam_eps, .weight_decay = c.weight_decay};
}

optim::Schedule make_schedule(const config::TrainConfig& c, std::int64_t total_steps) {
  const auto share = [&](double ratio) {
    return static_cast<std::int64_t>(std::ceil(ratio * static_cast<double>(total_steps)));
  };
  return {.kind = schedule_kind(c.lr_scheduler),
          .total_steps = total_steps,
          .warmup_steps = c.warmup_steps ? *c.warmup_steps : share(c.warmup_ratio.value_or(0.0)),
          .decay_steps = share(c.decay_ratio),
          .min_ratio = c.min_lr_ratio};
}

TrainingLength training_length(const config::TrainConfig& c, const data::TrainLoader& loader,
                               const TrainingStart& start, std::int64_t done) {
  const std::int64_t per_step = c.batch_size * c.grad_accum;
  if (c.max_steps) {
    if (*c.max_steps < done) throw too_short("the run", *c.max_steps, done);
    return {.sequences = loader.num_sequences() + (*c.max_steps - done) * per_step, .steps = *c.max_steps};
  }
  const double epochs = c.num_train_epochs.value_or(1.0);
  const std::int64_t sequences = loader.sequences_for_epochs(start.epochs + epochs);
  const std::int64_t left = sequences - loader.num_sequences();
  if (left < 0)
    throw ConfigError(
        "train.num_train_epochs: found {}, but the run has read {:.3f} epochs already; expected at least that many, or "
        "another output_dir.",
        epochs, loader.epochs(0) - start.epochs);
  return {.sequences = sequences, .steps = done + (left + per_step - 1) / per_step};
}

Json deciding_config(const config::RunConfig& c) {
  Json train = config::to_json(c.train);
  for (const char* key :
       {"logging_steps", "report_to", "eval_steps", "save_steps", "save_total_limit", "max_nonfinite_steps",
        "activation_checkpointing", "activation_cache", "max_steps", "num_train_epochs", "batch_size", "grad_accum"})
    train.erase(key);
  train["batch_size x grad_accum"] = c.train.batch_size * c.train.grad_accum;
  return {{"seed", c.seed},
          {"method", std::string(config::to_string(c.method))},
          {"dtype", to_string(c.compute.decided_dtype())},
          {"seq_len", c.seq_len},
          {"train", train},
          {"unit_lr", config::to_json(c.unit_lr)},
          {"lora", c.method == config::Method::kLora ? config::to_json(c.lora) : Json()},
          {"top_k_layers", c.method == config::Method::kTopKLayers ? config::to_json(c.top_k_layers) : Json()}};
}

void check_same_training(const std::filesystem::path& run_dir, const config::RunConfig& config,
                         const std::optional<io::ModelIdentity>& model) {
  const std::optional<CheckpointHeader> newest = newest_checkpoint(run_dir);
  if (!newest) return;
  Json before = newest->config;
  const Json now = deciding_config(config);
  for (const auto& [key, value] : newest->config.items())
    if (!now.contains(key)) before.erase(key);  // what only the trainer knows; it compares that too
  Json before_model = Json::object(), now_model = Json::object();
  if (model) {
    before_model["model"] = io::to_json(newest->model);
    now_model["model"] = io::to_json(*model);
  }
  std::vector<std::string> lines = io::differences(before, now);
  const std::vector<std::string> more = io::differences(before_model, now_model);
  lines.insert(lines.end(), more.begin(), more.end());
  if (!lines.empty()) throw other_run_error(newest->path, lines);
  if (const auto steps = config.train.max_steps; steps && *steps < newest->step)
    throw too_short(newest->path.string(), *steps, newest->step);
}

}  // namespace adept::train
