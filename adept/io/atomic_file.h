// Files and directories that appear under their final name only when they are complete and on disk.
//
// Everything is written under a temporary name in the same folder (io/temporary.h), synced (fsync) and renamed, and the
// folder is synced. A failure or an exception removes the temporary and keeps the old contents. Symbolic links are
// followed: their target is replaced, the links stay.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>

#include "adept/io/posix.h"
#include "adept/io/temporary.h"

namespace adept::io {

/// How to handle a final path that is a device, a named pipe or a descriptor (/dev/stdout, /dev/fd/3). Such a file is
/// never replaced.
enum class SpecialFile {
  kRefuse,        ///< DataError
  kWriteThrough,  ///< written directly: for a path that the user chose
};

/// Writes one file in pieces; an existing regular file is replaced by commit(), and its mode and, where possible, its
/// owner are kept. Every failure is a DataError that names the path and says what to do. The folder must exist.
class AtomicFile {
 public:
  /// With kWriteThrough it waits for the reader of a named pipe; InterruptedError if a signal ends the wait, here and
  /// in write().
  explicit AtomicFile(std::filesystem::path final_path, SpecialFile special_file = SpecialFile::kRefuse);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Syncs the contents, renames the temporary to the final path and syncs its folder.
  void commit();

 private:
  std::filesystem::path final_path_;    // as it was given, for messages
  std::filesystem::path target_;        // with symbolic links resolved
  std::optional<struct stat> old_;      // of the file to be replaced
  std::optional<Temporary> temporary_;  // or
  UniqueFd stream_;                     // written directly
  bool committed_ = false;
};

/// An AtomicFile with one write().
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// How to handle a final directory that exists and is not empty. (An empty one is always replaced.)
enum class OnExisting {
  kFail,     ///< DataError, at construction and again at commit()
  kReplace,  ///< commit() swaps the two and removes the old one
};

/// Builds a directory under a temporary name beside its final path. Keeps mode and owner of a replaced directory, as
/// for a file.
class AtomicDirectory {
 public:
  /// Creates the temporary directory, and missing parents of `final_path`. Throws DataError.
  explicit AtomicDirectory(std::filesystem::path final_path, OnExisting on_existing = OnExisting::kFail);
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write until commit().
  const std::filesystem::path& path() const { return temporary_->path(); }
  const std::filesystem::path& final_path() const { return final_path_; }
  /// Syncs every file and directory inside, renames to the final path and syncs the parent. Throws DataError and then
  /// leaves the final path unchanged.
  void commit();

 private:
  void replace();

  std::filesystem::path final_path_;  // as it was given
  std::filesystem::path target_;      // with symbolic links resolved
  OnExisting on_existing_;
  std::optional<Temporary> temporary_;
  bool committed_ = false;
};

}  // namespace adept::io
