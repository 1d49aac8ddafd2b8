// Whether a file is still the one that was opened.
#pragma once

#include <cstdint>
#include <filesystem>

namespace adept::io {

/// What changes if a file is written to, or replaced. Of a stream, or an absent file, always the same.
struct FileStamp {
  std::uint64_t inode = 0;
  std::int64_t size = 0;
  std::int64_t seconds = 0, nanoseconds = 0;  ///< of the last modification

  bool operator==(const FileStamp&) const = default;
};

FileStamp stamp_of(const std::filesystem::path& path);

/// Throws DataError if the file has changed since it had this stamp: parts of what was read may be of two versions.
void require_unchanged(const std::filesystem::path& path, const FileStamp& stamp);

}  // namespace adept::io
