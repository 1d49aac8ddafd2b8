// Stages of a run: each is done once, and again only when what it was made from has changed.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "adept/core/json.h"

namespace adept::run {

/// What is recorded of a finished stage, in <run_dir>/stages/<name>.json.
struct StageRecord {
  std::string name;
  Json inputs;         ///< whatever decides the outputs: hashes of files, parts of the configuration
  double seconds = 0;  ///< of the session that did it
  std::int64_t peak_memory_bytes = 0;
  bool skipped = false;  ///< done by an earlier session
};

/// Runs stages in one directory.
class StageRunner {
 public:
  explicit StageRunner(std::filesystem::path run_dir);

  /// Does `work` unless an earlier session did it from equal `inputs` and all `outputs` (relative to the run directory)
  /// are there. The record is written when `work` returns; an exception leaves none.
  void run(const std::string& name, const Json& inputs, const std::vector<std::string>& outputs,
           const std::function<void()>& work);

  /// Does `work` every time, and keeps no record of it on disk.
  void always(const std::string& name, const std::function<void()>& work);

  /// In the order in which they ran.
  const std::vector<StageRecord>& records() const { return records_; }

 private:
  std::filesystem::path run_dir_;
  std::vector<StageRecord> records_;
};

}  // namespace adept::run
