// A whole file as read-only memory, loaded by the system page by page as it is touched.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace adept::io {

/// What tells a file, as it is at a moment, from all others and from itself after a change.
struct FileIdentity {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t modified = 0, changed = 0;  ///< ns since the epoch: the contents, anything of it

  auto operator<=>(const FileIdentity&) const = default;
};

/// A read-only, private mapping of a regular file. Immutable, so it may be shared between threads.
///
/// The file must not be shortened while it is mapped: the system then ends the process at the first touch of a lost
/// page (SIGBUS). Files replaced by rename, as everything here writes them, are safe: the old contents stay mapped.
class MappedFile {
 public:
  /// Throws DataError if the file cannot be opened or mapped, or is no regular file. An empty file is empty bytes.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }
  /// As it was when it was mapped.
  const FileIdentity& identity() const { return identity_; }

 private:
  MappedFile(std::filesystem::path path, FileIdentity identity, std::span<const std::byte> bytes)
      : path_(std::move(path)), identity_(identity), bytes_(bytes) {}

  std::filesystem::path path_;
  FileIdentity identity_;
  std::span<const std::byte> bytes_;
};

/// Takes the pages that lie wholly in `mapped`, bytes of a MappedFile, out of the process's memory; they are read again
/// when they are touched.
void release_pages(std::span<const std::byte> mapped);

}  // namespace adept::io
