// Opens and reads files, with errors that name the path and say what to do. All inputs are opened here: special files
// are refused, or read as streams with waits that a signal interrupts.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "adept/core/error.h"

namespace adept {

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
  /// Closes and ignores the result; for files that are only read or will be discarded.
  void reset();
  /// Closes and reports a failure (a network file system may report a failed write only here). Throws DataError.
  void close(const std::filesystem::path& path);

 private:
  int fd_ = -1;
};

/// The error of a failed call: "PATH: cannot ACTION: REASON. ADVICE."
DataError system_error(const std::filesystem::path& path, std::string_view action, int error_number);

/// Describes a mode of stat(2), for messages: "a folder", "a named pipe", "a device", "a socket", "a regular file".
std::string_view file_type_name(unsigned mode);

/// Whether `path` exists as a directory entry. True also for a broken link, and for a path that cannot be inspected:
/// opening it reports the problem.
bool is_present(const std::filesystem::path& path);

/// The target of the symbolic links at the end of a path, whether or not it exists.
struct LinkTarget {
  std::filesystem::path path;
  int descriptor = -1;  ///< the number of an open file of this process, which the path names: /dev/stdin, /dev/fd/3
};

/// Throws DataError with `path` if the links form a loop.
LinkTarget follow_links(const std::filesystem::path& path);

/// Opens a regular file for reading and never waits. Throws DataError for anything else.
UniqueFd open_for_reading(const std::filesystem::path& path);
/// Opens a file that can be read once from start to end: a regular file, a pipe, or a device such as /dev/stdin. Waits
/// for the first bytes of a pipe. Throws DataError; InterruptedError if a signal ends the wait.
UniqueFd open_stream(const std::filesystem::path& path);
/// Reads at most `buffer.size()` bytes, 0 at the end. Throws DataError; InterruptedError if a signal ends a wait.
std::size_t read_some(int fd, std::span<char> buffer, const std::filesystem::path& path);
/// All bytes, or more than `max_bytes` of a longer file, which the caller rejects.
std::string read_all(const UniqueFd& fd, const std::filesystem::path& path, std::size_t max_bytes);

/// Writes to a file that may block, such as a pipe or a terminal. Returns 0 or an errno; EINTR if a signal ended a
/// wait.
int write_stream(int fd, std::span<const char> bytes);

/// Removes a file or a folder with its contents. A failure only logs a warning, as nothing depends on it.
void remove_or_warn(const std::filesystem::path& path);

}  // namespace adept
