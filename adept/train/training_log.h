// Logs a training to its metric sinks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/core/json.h"
#include "adept/train/checkpoint.h"
#include "adept/train/metric_sinks.h"
#include "adept/train/step.h"
#include "adept/train/step_account.h"

namespace adept::train {

class TrainingLog {
 public:
  /// For a session that starts with `state`. Only the first process of a job writes. Referenced objects must outlive
  /// it.
  TrainingLog(const config::RunConfig& config, const std::filesystem::path& run_dir, const TrainerState& state,
              const StepAccount& account);

  /// Call after a step with this rate. Adds its loss to the sums of `state`, shows it on the console and, every
  /// logging_steps steps and after the last one, logs the mean since the last line. `epoch` refers to the first source.
  void step(TrainerState& state, const StepResult& result, double rate, double epoch);
  /// Metrics of held-out text, by name.
  void evaluation(const TrainerState& state, const Json& values, double epoch);
  /// Importance and rate of every unit.
  void importance(const TrainerState& state);
  /// Prints the last console line.
  void finish(const TrainerState& state) { console_.finish(state.last_loss); }

 private:
  void log(const TrainerState& state, const Json& values, double epoch);

  const config::RunConfig& config_;
  const StepAccount& account_;
  std::vector<std::unique_ptr<MetricSink>> sinks_;
  ConsoleSink console_;  // of every step
  std::unique_ptr<MetricSink> importance_;
};

}  // namespace adept::train
