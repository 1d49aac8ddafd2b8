// The logs of a run, with file names and keys that common tools read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "adept/core/json.h"
#include "adept/method/units.h"
#include "adept/train/metric_sinks.h"

namespace adept::train {

/// Appends JSON lines to a file, the step first, each written through at once.
class JsonlFile final : public MetricSink {
 public:
  /// Continues a file whose lines have the integer `step_key`: lines of a step after `last_step` are dropped, so a
  /// resumed run does not repeat them, and those of `last_step` with a key that starts with `repeated`, if given.
  /// Also drops a truncated last line and, with a warning, damaged lines. Throws DataError.
  JsonlFile(std::filesystem::path path, const std::string& step_key, std::int64_t last_step,
            std::string_view repeated = "");
  void log(const Json& values, std::int64_t step) override;

 private:
  std::filesystem::path path_;
  std::string step_key_;
};

/// Names of the log files in the directory of a run.
inline constexpr char kTrainerLog[] = "trainer_log.jsonl", kImportanceLog[] = "parameter_importance.jsonl";

/// Values of a line of trainer_log.jsonl, in LLaMA-Factory's format; `extra` adds keys.
struct LogLine {
  double percentage = 0;  ///< of the steps
  std::int64_t total_steps = 0;
  double epoch = 0;            ///< of the first training source
  double elapsed_seconds = 0;  ///< spent in steps, over all sessions of the run
  double remaining_seconds = 0;
  double throughput = 0;  ///< tokens per second
  std::int64_t total_tokens = 0;
  Json extra = Json::object();
};
Json to_json(const LogLine& line);

/// Values of a line of parameter_importance.jsonl: {importance: {unit: I}, lr_weight: {unit: w}}.
Json importance_line(const method::UnitValues& importance, const method::UnitValues& lr_weights);

}  // namespace adept::train
