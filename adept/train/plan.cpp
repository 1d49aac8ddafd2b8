#include "adept/train/plan.h"

#include <cmath>

#include "adept/core/error.h"
#include "adept/dist/process_group.h"
#include "adept/io/record.h"
#include "adept/train/checkpoint.h"

namespace adept::train {
namespace {

ConfigError too_short(const std::string& where, std::int64_t wanted, std::int64_t done) {
  return ConfigError(
      "train.max_steps: found {}, but {} already has {} steps; expected at least that many, or another output_dir.",
      wanted, where, done);
}

}  // namespace

std::int64_t sequences_per_step(const TrainOptions& c) { return c.batch_size * c.grad_accum * dist::world().size(); }

optim::Schedule make_schedule(const TrainOptions& c, std::int64_t total_steps) {
  const auto share = [&](double ratio) {
    return static_cast<std::int64_t>(std::ceil(ratio * static_cast<double>(total_steps)));
  };
  return {.kind = c.lr_scheduler,
          .total_steps = total_steps,
          .warmup_steps = c.warmup_steps ? *c.warmup_steps : share(c.warmup_ratio.value_or(0.0)),
          .decay_steps = share(c.decay_ratio),
          .min_ratio = c.min_lr_ratio};
}

TrainingLength training_length(const TrainOptions& c, const data::TrainLoader& loader, const TrainingStart& start,
                               std::int64_t done) {
  const std::int64_t per_step = sequences_per_step(c);
  if (c.max_steps) {
    if (*c.max_steps < done) throw too_short("the run", *c.max_steps, done);
    const std::int64_t wanted = loader.num_sequences() + (*c.max_steps - done) * per_step;
    if (const auto most = loader.max_sequences(); most && wanted > *most)
      throw ConfigError(
          "train.max_steps: found {}, which read {} sequences, but the limits of the sources (epochs, max_tokens) "
          "allow {}; expected at most {}, or a higher limit.",
          *c.max_steps, wanted, *most, done + (*most - loader.num_sequences()) / per_step);
    return {.sequences = wanted, .steps = *c.max_steps};
  }
  const double epochs = c.num_train_epochs.value_or(1.0);
  const std::int64_t sequences = loader.sequences_for_epochs(start.epochs + epochs, start.sequences);
  const std::int64_t left = sequences - loader.num_sequences();
  if (left < 0)
    throw ConfigError(
        "train.num_train_epochs: found {}, but the run has already read {:.3f} epochs; expected at least that many, or "
        "another output_dir.",
        epochs, loader.epochs(0) - start.epochs);
  return {.sequences = sequences, .steps = done + (left + per_step - 1) / per_step};
}

Json deciding_config(const config::RunConfig& c) {
  Json json = config::deciding(c, config::decides::kTraining);
  json["dtype"] = to_string(c.compute.decided_dtype());
  if (!c.unit_lr.uses_importance()) json.erase("probe");  // no unit's importance is measured
  Json& train = json["train"];
  for (const char* key : {"batch_size", "grad_accum"}) train.erase(key);  // only their product matters
  train["batch_size x grad_accum x processes"] = sequences_per_step(c.train);
  return json;
}

void check_same_training(const std::filesystem::path& run_dir, const config::RunConfig& config,
                         const std::optional<io::ModelIdentity>& model, std::optional<data::TrainLoader> loader,
                         data::OtherMixture other) {
  const std::optional<CheckpointHeader> newest = newest_checkpoint(run_dir);
  if (!newest) return;
  Json before = newest->config;
  const Json now = deciding_config(config);
  if (before.value("method", Json()) == now.value("method", Json()))
    for (const auto& [key, value] : newest->config.items())
      if (!now.contains(key)) before.erase(key);  // known only to the trainer, which compares it too
  const std::vector<std::string> lines = training_differences(before, now, newest->model, model);
  if (!lines.empty()) throw other_run_error(newest->path, lines);
  try {
    if (loader) loader->load_state(newest->loader, newest->path.string(), other);
  } catch (const DataError&) {  // damaged: reported when it is loaded
  }
}

void check_not_shorter(const std::filesystem::path& run_dir, const config::RunConfig& config) {
  const std::optional<CheckpointHeader> newest = newest_checkpoint(run_dir);
  const std::optional<std::int64_t> steps = config.train.max_steps;
  if (newest && steps && *steps < newest->step) throw too_short(newest->path.string(), *steps, newest->step);
}

}  // namespace adept::train
