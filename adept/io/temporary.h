// Temporary files and folders next to their targets.
//
// A temporary is called ".<target>.tmp-<random>" and is locked (flock) by its writer. The system releases the lock when
// the process ends, so a temporary that can be locked is abandoned. Process ids would not work, because containers
// reuse them. If the file system does not support locks, abandoned temporaries stay, and a warning names them.
#pragma once

#include <sys/types.h>

#include <filesystem>

#include "adept/core/file.h"

namespace adept::io {

/// Removes abandoned temporaries from `directory` (not from its subfolders).
void remove_temporaries(const std::filesystem::path& directory);

/// A locked temporary. It is removed when this object is destroyed or a library calls exit(), unless it was renamed.
class Temporary {
 public:
  enum class Kind { kFile, kDirectory };

  /// Removes temporaries that killed processes left for the same target, then creates an empty file (open for writing,
  /// with `mode` as far as the umask allows) or folder in the target's folder, which must exist. Throws DataError that
  /// names `shown`.
  Temporary(const std::filesystem::path& target, Kind kind, mode_t mode, const std::filesystem::path& shown);
  ~Temporary();
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Of the file or folder; it holds the lock.
  int fd() const { return fd_.get(); }
  /// Call after it was renamed to its final name; it is no longer a temporary.
  void set_renamed();

 private:
  bool try_to_make(Kind kind, mode_t mode, const std::filesystem::path& shown);

  std::filesystem::path path_;
  UniqueFd fd_;
};

/// A name for the old contents of `target` while they are replaced. After a kill, they are removed like temporaries
/// once the target exists again.
std::filesystem::path name_for_old(const std::filesystem::path& target);

}  // namespace adept::io
