// One process at a time in a directory.
#pragma once

#include <filesystem>

#include "adept/io/posix.h"

namespace adept::io {

/// Holds `directory`/.lock (flock) as long as it lives; the system lets go of it however the process ends.
class DirectoryLock {
 public:
  /// Takes the lock, and then removes the temporaries that killed processes left here and below (see atomic_file.h):
  /// nobody can be writing them any more. Throws DataError if another process holds the lock, naming it.
  explicit DirectoryLock(const std::filesystem::path& directory);

 private:
  UniqueFd fd_;
};

}  // namespace adept::io
