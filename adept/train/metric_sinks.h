// Where the metrics of a training go. trainer_log.jsonl and the console are always there; others are chosen by
// train.report_to. To add one: a class and a row of the table in metric_sinks.cpp.
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

  /// `values` by name, as they are after `step` completed steps: numbers, strings, and objects of numbers; null is a
  /// value that was not measured. Those of an evaluation are called eval_..., and come in a call of their own. Throws
  /// DataError where they cannot be written.
  virtual void log(const Json& values, std::int64_t step) = 0;
};

/// Where a session of a training begins. What an earlier session logged of later steps is done again: a sink takes it
/// back.
struct SessionStart {
  std::filesystem::path run_dir;
  std::int64_t step = 0;            ///< completed steps; 0: what is there is of another training
  bool evaluates_at_start = false;  ///< the evaluation after `step` is still to be made, or made again
};

/// trainer_log.jsonl, and the sinks with these names.
std::vector<std::unique_ptr<MetricSink>> make_metric_sinks(const std::vector<std::string>& names,
                                                           const SessionStart& start);

/// Throws ConfigError, which names the key train.report_to, for a name that make_metric_sinks does not know.
void check_metric_sinks(const std::vector<std::string>& names);

/// The line of a training on the console. It wants the values of every step: loss, grad_norm, lr, throughput and
/// speed_of_light.
class ConsoleSink final : public MetricSink {
 public:
  ConsoleSink(std::int64_t step, std::int64_t total_steps);
  void log(const Json& values, std::int64_t step) override;
  /// Prints the last line. `loss` is that of the last line of the log.
  void finish(double loss);

 private:
  Progress progress_;
  std::string speed_;  // of the last step of this session
};

}  // namespace adept::train
