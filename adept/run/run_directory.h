// The directory of a run while a process works in it.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "adept/io/directory_lock.h"

namespace adept::run {

/// Makes the directory if it is not there, and locks it. When it is let go of, what this object made and nobody filled
/// is removed again: a start that fails leaves no empty folder.
class RunDirectory {
 public:
  /// Throws DataError if it cannot be made, or if another process is at work in it.
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
