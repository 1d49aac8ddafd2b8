// The directory of a run while a process works in it.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "adept/io/directory_lock.h"

namespace adept::run {

/// What a run leaves in its directory. pipeline.h says what each holds.
namespace files {
inline constexpr char kVersions[] = "versions.json";  ///< marks the folder of a run: it is the first one there
inline constexpr char kConfig[] = "config.yaml", kBaseline[] = "eval_base.json", kImportance[] = "importance.json",
                      kTrainResults[] = "train_results.json", kEvaluation[] = "eval_model.json",
                      kCopies[] = "copies.json", kAllResults[] = "all_results.json",
                      kContamination[] = "contamination.json";
inline constexpr const char* kAll[] = {kVersions,     kConfig,     kContamination, kBaseline,  kImportance,
                                       kTrainResults, kEvaluation, kCopies,        kAllResults};
inline constexpr char kExpanded[] = "expanded", kModel[] = "model", kStages[] = "stages";  ///< folders
}  // namespace files

/// Creates the directory if it does not exist, and locks it. The destructor removes folders that this object created
/// and that are still empty, so a failed start leaves no empty folder.
class RunDirectory {
 public:
  /// Throws DataError if it cannot be created, or if another process uses it.
  explicit RunDirectory(std::filesystem::path path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  void remove_made() const noexcept;

  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  // from the innermost outwards
  std::optional<io::DirectoryLock> lock_;
};

/// Whether `path` is `folder` or something below it.
bool is_in(const std::filesystem::path& path, const std::filesystem::path& folder);

}  // namespace adept::run
