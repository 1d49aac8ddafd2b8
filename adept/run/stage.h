// Stages of a run: each is done once, and again only when what it was made from has changed.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "adept/core/json.h"

namespace adept::run {

/// What is recorded of a finished stage, in <run_dir>/stages/<name>.json.
struct StageRecord {
  std::string name;
  Json inputs;         ///< whatever decides the outputs: hashes of files, parts of the configuration
  double seconds = 0;  ///< of the session that did it, and of those that were interrupted at it
  std::int64_t peak_rss_bytes = 0;
  bool skipped = false;  ///< done by an earlier session
};

/// Runs stages in one directory.
class StageRunner {
 public:
  explicit StageRunner(std::filesystem::path run_dir);

  /// Does `work` unless an earlier session did it from equal `inputs` and all `outputs` (files and folders, relative to
  /// the run directory) hold the bytes that they held then. The record is written when `work` returns. An exception
  /// leaves none; an InterruptedError one of the time spent, which is added when the stage is done. A damaged record is
  /// reported and counts as none.
  void run(const std::string& name, const Json& inputs, const std::vector<std::string>& outputs,
           const std::function<void()>& work);

  /// Why an earlier session's stage is not that of `inputs`: what differs, one line each. Empty where it is the same,
  /// was not done, or has no record that can be read.
  std::vector<std::string> other_inputs(const std::string& name, const Json& inputs);

  /// Whether an earlier session did the stage from equal inputs, and its outputs hold what they held then.
  bool is_done(const std::string& name, const Json& inputs);

  /// Counts a stage as done whose outputs were used up by a later one and removed. False, and nothing happens, where an
  /// earlier session did not do it from equal inputs.
  bool keep_without_outputs(const std::string& name, const Json& inputs);

  /// Removes the record and the outputs of a stage that this run does not have, as an earlier one in the same directory
  /// had it: nothing there is of another run.
  void discard(const std::string& name, const std::vector<std::string>& outputs);

  /// Does `work` every time, and keeps no record of it on disk.
  void always(const std::string& name, const std::function<void()>& work);

  /// In the order in which they ran.
  const std::vector<StageRecord>& records() const { return records_; }

 private:
  std::filesystem::path record_path(const std::string& name) const { return run_dir_ / "stages" / (name + ".json"); }

  void keep(const std::string& name, const Json& inputs, const Json& record);
  const Json& earlier(const std::string& name);

  std::filesystem::path run_dir_;
  std::map<std::string, Json> earlier_;  // records as they are on disk, null where there is none
  std::vector<StageRecord> records_;
};

}  // namespace adept::run
