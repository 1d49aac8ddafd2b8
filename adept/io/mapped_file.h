// A whole file as read-only memory, loaded by the system page by page as it is touched.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace adept::io {

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

 private:
  MappedFile(std::filesystem::path path, std::span<const std::byte> bytes) : path_(std::move(path)), bytes_(bytes) {}

  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

/// Takes the pages that lie wholly in `mapped`, bytes of a MappedFile, out of the process's memory; they are read again
/// when they are touched.
void release_pages(std::span<const std::byte> mapped);

}  // namespace adept::io
