// Sinks for the metrics of a training. trainer_log.jsonl and the console are always active; train.report_to selects
// others. To add one, write a class and add a row to the table in metric_sinks.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/core/progress.h"

namespace adept::train {

class MetricSink {
 public:
  MetricSink() = default;
  MetricSink(const MetricSink&) = delete;
  MetricSink& operator=(const MetricSink&) = delete;
  virtual ~MetricSink() = default;

  /// Logs `values` by name after `step` completed steps: numbers, strings and objects of numbers; null for values that
  /// were not measured. Values of an evaluation are named eval_... and arrive in a separate call. Throws DataError if
  /// writing fails.
  virtual void log(const Json& values, std::int64_t step) = 0;
};

/// The start of a training session. It repeats later steps that an earlier session logged, so sinks must drop these.
struct SessionStart {
  std::filesystem::path run_dir;
  std::int64_t step = 0;            ///< completed steps; 0: existing files belong to another training
  bool evaluates_at_start = false;  ///< the evaluation after `step` is pending or will be repeated
};

/// trainer_log.jsonl, and the sinks with these names.
std::vector<std::unique_ptr<MetricSink>> make_metric_sinks(const std::vector<std::string>& names,
                                                           const SessionStart& start);

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
