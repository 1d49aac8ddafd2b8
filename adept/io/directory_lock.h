// One process at a time in a directory.
#pragma once

#include <filesystem>

#include "adept/io/posix.h"

namespace adept::io {

/// Holds `directory`/.lock (flock) as long as it lives; the system releases the lock however the process ends.
class DirectoryLock {
 public:
  static constexpr const char* kFileName = ".lock";

  /// Throws DataError if another process holds the lock, naming it. Where the file system has no locks a warning says
  /// so.
  explicit DirectoryLock(const std::filesystem::path& directory);

 private:
  UniqueFd fd_;
};

}  // namespace adept::io
