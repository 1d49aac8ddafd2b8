// Stages of a run: each runs once, and again only if its inputs or outputs have changed.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "adept/core/json.h"
#include "adept/run/run_directory.h"

namespace adept::run {

/// The record of a finished stage, <run_dir>/stages/<name>.json.
struct StageRecord {
  std::string name;
  Json inputs;         ///< everything that decides the outputs: hashes of files, parts of the configuration
  double seconds = 0;  ///< of the session that completed it, and of those interrupted in it
  std::int64_t peak_rss_bytes = 0;
  Json memory{};         ///< of its tensors on the device: train::to_json; null: not known
  bool skipped = false;  ///< done by an earlier session
};

/// Runs stages in one directory.
class StageRunner {
 public:
  explicit StageRunner(std::filesystem::path run_dir);

  /// Runs `work` unless an earlier session completed it with equal `inputs` and all `outputs` (files and folders,
  /// relative to the run directory) have the same bytes. The record is written when `work` returns. An exception leaves
  /// no record; an InterruptedError leaves a record of the time spent, which is added later. A damaged record is
  /// reported and ignored.
  void run(const std::string& name, const Json& inputs, const std::vector<std::string>& outputs,
           const std::function<void()>& work);

  /// For the record of the stage that runs: the memory of its tensors.
  void set_memory(Json memory) { memory_ = std::move(memory); }

  /// Differences between an earlier session's inputs and `inputs`, one line each. Empty if there are none, or if there
  /// is no readable record.
  std::vector<std::string> other_inputs(const std::string& name, const Json& inputs);

  /// Whether an earlier session completed the stage with equal inputs, and its outputs are unchanged.
  bool is_done(const std::string& name, const Json& inputs);

  /// Counts a stage as done if an earlier session completed it with equal inputs, although a later stage consumed and
  /// removed its outputs. Otherwise returns false.
  bool keep_without_outputs(const std::string& name, const Json& inputs);

  /// Removes the record and the outputs of a stage that only an earlier run in this directory had.
  void discard(const std::string& name, const std::vector<std::string>& outputs);

  /// Runs `work` every time, without a record on disk.
  void always(const std::string& name, const std::function<void()>& work);

  /// In the order in which they ran.
  const std::vector<StageRecord>& records() const { return records_; }

 private:
  std::filesystem::path record_path(const std::string& name) const {
    return run_dir_ / files::kStages / (name + ".json");
  }

  void keep(const std::string& name, const Json& inputs, const Json& record);
  const Json& earlier(const std::string& name);

  std::filesystem::path run_dir_;
  std::map<std::string, Json> earlier_;  // records on disk; null if there is none
  std::vector<StageRecord> records_;
  Json memory_;  // of the stage that runs
};

}  // namespace adept::run
