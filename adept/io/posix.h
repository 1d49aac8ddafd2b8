// The few POSIX calls that adept::io needs, with errors that name the path and say what to do.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include "adept/core/error.h"

namespace adept::io {

/// An open file descriptor that closes itself.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  /// Closes and ignores the result; for files that are only read, or are being thrown away.
  void reset();
  /// Closes and reports a failure (a network file system may report a failed write only here). Throws DataError.
  void close(const std::filesystem::path& path);

 private:
  int fd_ = -1;
};

/// The error of a failed call: "PATH: cannot ACTION: REASON. ADVICE."
DataError system_error(const std::filesystem::path& path, std::string_view action, int error_number);

/// Opens for reading (O_CLOEXEC). Throws DataError if it cannot, or if it is a directory.
UniqueFd open_for_reading(const std::filesystem::path& path);
/// Reads at most `buffer.size()` bytes, 0 at the end. Restarts after a signal. Throws DataError.
std::size_t read_some(int fd, std::span<char> buffer, const std::filesystem::path& path);
/// Writes everything, in several calls where the system takes less at a time. Throws DataError.
void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path);
/// Waits until the contents are on the disk. Throws DataError.
void sync_file(int fd, const std::filesystem::path& path);
/// Makes the entries of a directory durable; file systems that cannot do it are left alone. Throws DataError.
void sync_directory(const std::filesystem::path& directory);
/// The directory that holds `path`; "." for a bare name.
std::filesystem::path parent_of(const std::filesystem::path& path);

}  // namespace adept::io
