// Sinks for the metrics of a training. trainer_log.jsonl and the console are always active; train.report_to selects
// others. To add one, write a class and add a row to the table in metric_sinks.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/json.h"
#include "adept/core/progress.h"

namespace adept::train {

/// What the names of values of an evaluation start with.
inline constexpr std::string_view kEvaluationPrefix = "eval_";

class MetricSink {
 public:
  MetricSink() = default;
  MetricSink(const MetricSink&) = delete;
  MetricSink& operator=(const MetricSink&) = delete;
  virtual ~MetricSink() = default;

  /// Logs `values` by name after `step` completed steps: numbers, strings and objects of numbers; null for values that
  /// were not measured. Values of an evaluation are named eval_... and arrive in a separate call for the same step,
  /// after that of the step. Not every step is logged; steps do not decrease within a session. The values must be in
  /// the file when log() returns, because the process may be killed. Throws DataError if writing fails, which ends the
  /// training.
  virtual void log(const Json& values, std::int64_t step) = 0;
};

/// The start of a training session. The session logs the steps after `step` (again, if an earlier session that was
/// killed has logged them), so a sink drops what it has of these.
struct SessionStart {
  std::filesystem::path run_dir;
  std::int64_t step = 0;  ///< completed steps; 0: a new training, and existing files belong to another one
  /// The evaluation after `step` is pending or will be repeated: values eval_... of that step are dropped as well.
  bool evaluates_at_start = false;
};

/// trainer_log.jsonl, and the sinks with these names.
std::vector<std::unique_ptr<MetricSink>> make_metric_sinks(const std::vector<std::string>& names,
                                                           const SessionStart& start);

/// The names that train.report_to accepts.
std::vector<std::string> metric_sink_names();
/// Throws ConfigError, with the key train.report_to, for names that make_metric_sinks does not know.
void check_metric_sinks(const std::vector<std::string>& names);

/// The progress line of a training. It requires the values of every step: loss, grad_norm, lr, throughput and
/// speed_of_light.
class ConsoleSink final : public MetricSink {
 public:
  ConsoleSink(std::int64_t step, std::int64_t total_steps);
  void log(const Json& values, std::int64_t step) override;
  /// Prints the last line. `loss` is the last logged loss.
  void finish(double loss);

 private:
  Progress progress_;
  std::string speed_;  // of the last step of this session
};

}  // namespace adept::train
