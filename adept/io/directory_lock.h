// One process at a time in a directory.
#pragma once

#include <filesystem>

#include "adept/io/posix.h"

namespace adept::io {

/// How to handle a directory that another process has locked.
enum class OnLocked {
  kFail,  ///< DataError that names the process
  kWait,  ///< an info message that names it; InterruptedError if a signal ends the wait
};

/// Holds `directory`/.lock (flock) during its lifetime; the system releases the lock when the process ends.
class DirectoryLock {
 public:
  static constexpr const char* kFileName = ".lock";

  /// If the file system does not support locks, logs a warning. Throws DataError if the directory does not exist.
  explicit DirectoryLock(std::filesystem::path directory, OnLocked on_locked = OnLocked::kFail);

  /// Whether another process held the lock at first.
  bool waited() const { return waited_; }
  /// Removes the file, for a directory that nobody will lock again. The lock stays until the destructor.
  void remove_file() const;

 private:
  bool try_to_lock();

  std::filesystem::path directory_;
  UniqueFd fd_;
  bool waited_ = false;
};

}  // namespace adept::io
