// A whole file as read-only memory, loaded page by page on access.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace adept::io {

/// Identifies a version of a file: differs between files, and after a change.
struct FileIdentity {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t modified = 0, changed = 0;  ///< ns since the epoch: modification, status change

  auto operator<=>(const FileIdentity&) const = default;
};

/// A read-only, private mapping of a regular file. Immutable, so it may be shared between threads.
///
/// The file must not be truncated while it is mapped: accessing a lost page ends the process (SIGBUS). Replacing files
/// by rename, as adept does, is safe: the old contents stay mapped.
class MappedFile {
 public:
  /// Throws DataError if the file cannot be opened or mapped, or is not a regular file. An empty file gives empty
  /// bytes.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }
  /// Identity at the time of mapping.
  const FileIdentity& identity() const { return identity_; }

 private:
  MappedFile(std::filesystem::path path, FileIdentity identity, std::span<const std::byte> bytes)
      : path_(std::move(path)), identity_(identity), bytes_(bytes) {}

  std::filesystem::path path_;
  FileIdentity identity_;
  std::span<const std::byte> bytes_;
};

/// Releases the pages that lie entirely in `mapped` (bytes of a MappedFile) from memory; they are read again on access.
void release_pages(std::span<const std::byte> mapped);

}  // namespace adept::io
