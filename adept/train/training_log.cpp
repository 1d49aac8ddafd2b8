#include "adept/train/training_log.h"

#include "adept/dist/process_group.h"
#include "adept/train/trainer_log.h"

namespace adept::train {

TrainingLog::TrainingLog(const config::RunConfig& config, const std::filesystem::path& run_dir,
                         const TrainerState& state, const StepAccount& account)
    : config_(config), account_(account), console_(state.step, state.total_steps) {
  if (!dist::is_first()) return;
  sinks_ = make_metric_sinks(config.train.report_to,
                             {.run_dir = run_dir, .step = state.step, .evaluates_at_start = state.evaluation_due});
  // The probe before step n belongs to the steps from n on, so it is repeated.
  const std::filesystem::path importance_file = run_dir / kImportanceLog;
  if (!config.unit_lr.uses_importance())
    std::filesystem::remove(importance_file);  // of other settings
  else
    importance_ = std::make_unique<JsonlFile>(importance_file, "step", state.step - 1);
}

void TrainingLog::step(TrainerState& state, const StepResult& result, double rate, double epoch) {
  if (result.finite) {
    const double loss = result.loss * static_cast<double>(result.num_targets);
    state.loss_sum += loss;
    state.loss_tokens += result.num_targets;
    state.run_loss_sum += loss;
    state.run_loss_tokens += result.num_targets;
  }
  const StepMeter& meter = account_.meter();
  console_.log({{"loss", result.loss},
                {"grad_norm", result.grad_norm},
                {"lr", rate},
                {"throughput", meter.tokens_per_second()},
                {"speed_of_light", meter.speed_of_light()}},
               state.step);
  if (state.step % config_.train.logging_steps != 0 && state.step != state.total_steps) return;
  if (state.loss_tokens > 0) state.last_loss = state.loss_sum / static_cast<double>(state.loss_tokens);
  Json values = {{"loss", state.loss_tokens > 0 ? Json(state.last_loss) : Json()},
                 {"lr", rate},
                 {"grad_norm", result.grad_norm},
                 {"speed_of_light", meter.speed_of_light()},
                 {"data_wait", account_.data_wait()},
                 {"memory_bytes", to_json(account_.memory())},
                 {"nonfinite_steps", state.nonfinite_total}};
  values.update(mean_losses(state.source_losses));
  log(state, values, epoch);
  state.loss_sum = 0;
  state.loss_tokens = 0;
  for (auto& [name, sum] : state.source_losses) sum = {};
}

void TrainingLog::evaluation(const TrainerState& state, const Json& values, double epoch) { log(state, values, epoch); }

void TrainingLog::importance(const TrainerState& state) {
  if (importance_) importance_->log(importance_line(state.unit_importance, state.unit_lr_weights), state.step);
}

void TrainingLog::log(const TrainerState& state, const Json& values, double epoch) {
  const StepMeter& meter = account_.meter();
  const Json line = to_json(
      LogLine{.percentage = 100.0 * static_cast<double>(state.step) / static_cast<double>(state.total_steps),
              .total_steps = state.total_steps,
              .epoch = epoch,
              .elapsed_seconds = state.train_seconds,
              .remaining_seconds = meter.seconds_per_step() * static_cast<double>(state.total_steps - state.step),
              .throughput = meter.tokens_per_second(),
              .total_tokens = state.total_tokens,
              .extra = values});
  for (const auto& sink : sinks_) sink->log(line, state.step);
}

}  // namespace adept::train
