// The records of a run, in the files and under the names that tools of the field read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "adept/core/json.h"
#include "adept/method/units.h"
#include "adept/train/metric_sinks.h"

namespace adept::train {

/// Highest resident memory of the process since reset_peak_rss (of its whole life where the system keeps no other),
/// in bytes.
std::int64_t peak_rss_bytes();
void reset_peak_rss();

/// Appends JSON lines to a file, the step first, each written through at once.
class JsonlFile final : public MetricSink {
 public:
  /// Continues a file whose lines have the integer `step_key`: lines of a step after `last_step` are dropped, so that a
  /// resumed run does not repeat itself, and of `last_step` those with the key `repeated`, if one is named. A last line
  /// that was cut short is dropped too, as are damaged lines, with a warning. Throws DataError.
  JsonlFile(std::filesystem::path path, const std::string& step_key, std::int64_t last_step,
            const std::string& repeated = "");
  void log(const Json& values, std::int64_t step) override;

 private:
  std::filesystem::path path_;
  std::string step_key_;
};

/// The files of these lines in the directory of a run.
inline constexpr char kTrainerLog[] = "trainer_log.jsonl", kImportanceLog[] = "parameter_importance.jsonl";

/// What a line of trainer_log.jsonl says beside its step, as LLaMA-Factory writes it; `extra` adds keys.
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

/// What a line of parameter_importance.jsonl says: {importance: {unit: I}, lr_weight: {unit: w}}.
Json importance_line(const method::UnitValues& importance, const method::UnitValues& lr_weights);

}  // namespace adept::train
