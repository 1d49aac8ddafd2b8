// Files and directories that appear under their name only when they are complete and on the disk.
//
// Everything is written under a temporary name in the same parent, synchronised (fsync), renamed, and the parent is
// synchronised. A failure or an exception on the way removes the temporary and leaves what was there before. A process
// that is killed leaves a temporary behind, ".<name>.tmp-<process>-<number>"; see remove_temporaries.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

#include "adept/io/posix.h"

namespace adept::io {

/// Removes from `directory` (not from folders in it) what the classes below left there in processes that have ended.
void remove_temporaries(const std::filesystem::path& directory);

/// Writes one file in pieces; an existing file is replaced by commit(). Every failure is a DataError that names the
/// path and says what to do. The parent directory must exist.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path final_path);
  /// Removes the temporary unless commit() succeeded.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Synchronises the contents, renames the temporary to the final path and synchronises the parent directory.
  void commit();

 private:
  std::filesystem::path final_path_;
  std::filesystem::path temporary_;
  UniqueFd fd_;
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

/// Builds a directory under a temporary name beside its final path.
class AtomicDirectory {
 public:
  /// Makes the temporary directory, and the parents of `final_path` where they are missing. Throws DataError.
  explicit AtomicDirectory(std::filesystem::path final_path, OnExisting on_existing = OnExisting::kFail);
  /// Removes the temporary and everything in it unless commit() succeeded.
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write until commit().
  const std::filesystem::path& path() const { return temporary_; }
  const std::filesystem::path& final_path() const { return final_path_; }
  /// Synchronises every file and directory inside, renames to the final path, synchronises the parent. Throws
  /// DataError; the final path then is what it was before.
  void commit();

 private:
  void replace();

  std::filesystem::path final_path_;
  std::filesystem::path temporary_;
  OnExisting on_existing_;
  bool committed_ = false;
};

}  // namespace adept::io
