// Files and directories that appear under their name only when they are complete and on the disk.
//
// Everything is written under a temporary name in the same folder (io/temporary.h), synchronised (fsync), renamed, and
// the folder is synchronised. A failure or an exception on the way removes the temporary and leaves what was there
// before. Symbolic links are followed: what they lead to is replaced, and they stay.
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

/// What happens when the final path is a device, a named pipe or a descriptor (/dev/stdout, /dev/fd/3). Such a file is
/// never replaced.
enum class SpecialFile {
  kRefuse,        ///< DataError
  kWriteThrough,  ///< what is written goes straight into it: for a path that the user chose
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
  /// Synchronises the contents, renames the temporary to the final path and synchronises its folder.
  void commit();

 private:
  std::filesystem::path final_path_;    // as it was given, for messages
  std::filesystem::path target_;        // behind symbolic links
  std::optional<struct stat> old_;      // of the file to be replaced
  std::optional<Temporary> temporary_;  // or
  UniqueFd stream_;                     // what is written straight into
  bool committed_ = false;
};

/// An AtomicFile with one write().
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// What happens when the final directory is there already and not empty. (An empty one is always taken over.)
enum class OnExisting {
  kFail,     ///< DataError, at construction and again at commit()
  kReplace,  ///< commit() swaps the two and removes the old one
};

/// Builds a directory under a temporary name beside its final path. Mode and owner of one that is replaced are kept, as
/// for a file.
class AtomicDirectory {
 public:
  /// Makes the temporary directory, and the parents of `final_path` where they are missing. Throws DataError.
  explicit AtomicDirectory(std::filesystem::path final_path, OnExisting on_existing = OnExisting::kFail);
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write until commit().
  const std::filesystem::path& path() const { return temporary_->path(); }
  const std::filesystem::path& final_path() const { return final_path_; }
  /// Synchronises every file and directory inside, renames to the final path, synchronises the parent. Throws
  /// DataError; the final path then is what it was before.
  void commit();

 private:
  void replace();

  std::filesystem::path final_path_;  // as it was given
  std::filesystem::path target_;      // behind symbolic links
  OnExisting on_existing_;
  std::optional<Temporary> temporary_;
  bool committed_ = false;
};

}  // namespace adept::io
