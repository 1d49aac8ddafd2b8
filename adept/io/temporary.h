// Temporary files and folders beside what they are to become.
//
// A temporary is called ".<target>.tmp-<random>" and is locked (flock) by its writer. The system releases the lock
// however the process ends, so a temporary that can be locked is abandoned. Process ids would not tell: a container
// gives the same ones again. Where the file system has no locks, abandoned temporaries stay, and a warning names them.
#pragma once

#include <sys/types.h>

#include <filesystem>

#include "adept/core/file.h"

namespace adept::io {

/// Removes from `directory` (not from folders in it) the abandoned temporaries.
void remove_temporaries(const std::filesystem::path& directory);

/// A locked temporary. It is removed at the end of this object's life, and where a library ends the process by exit(),
/// unless it was renamed.
class Temporary {
 public:
  enum class Kind { kFile, kDirectory };

  /// Removes what killed processes left of the same target, then makes an empty file (open for writing, with `mode` as
  /// far as the umask allows) or folder in the target's folder, which must exist. Throws DataError that names `shown`.
  Temporary(const std::filesystem::path& target, Kind kind, mode_t mode, const std::filesystem::path& shown);
  ~Temporary();
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Of the file or folder; it holds the lock.
  int fd() const { return fd_.get(); }
  /// It has its final name now, and is no temporary any more.
  void set_renamed();

 private:
  bool try_to_make(Kind kind, mode_t mode, const std::filesystem::path& shown);

  std::filesystem::path path_;
  UniqueFd fd_;
};

/// A name for the old contents of `target` while new ones take its place. Left by a kill, they are removed as
/// temporaries are once the target is there again.
std::filesystem::path name_for_old(const std::filesystem::path& target);

}  // namespace adept::io
