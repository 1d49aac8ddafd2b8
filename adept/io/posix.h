// The few POSIX calls for writing that adept::io needs, with errors that name the path and say what to do.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "adept/core/file.h"

namespace adept::io {

/// Writes everything, in several calls if necessary. Throws DataError.
void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path);
/// Waits until the contents are on the disk. Throws DataError.
void sync_file(int fd, const std::filesystem::path& path);
/// Makes the entries of a directory durable; ignored on file systems that do not support it. Throws DataError.
void sync_directory(const std::filesystem::path& directory);
/// The directory that contains `path`; "." for a bare name.
std::filesystem::path parent_of(const std::filesystem::path& path);

}  // namespace adept::io
