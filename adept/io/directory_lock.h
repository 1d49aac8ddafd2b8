// One process at a time in a directory.
#pragma once

#include <filesystem>

#include "adept/io/posix.h"

namespace adept::io {

/// Holds `directory`/.lock (flock) during its lifetime; the system releases the lock when the process ends.
class DirectoryLock {
 public:
  static constexpr const char* kFileName = ".lock";

  /// Throws DataError if another process holds the lock, naming it. If the file system does not support locks, logs a
  /// warning.
  explicit DirectoryLock(const std::filesystem::path& directory);

 private:
  UniqueFd fd_;
};

}  // namespace adept::io
