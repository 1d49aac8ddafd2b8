// Opening and reading files, with errors that name the path and say what to do. Every input is opened here: what is no
// regular file is refused, or waited for where a stream is meant, and a signal ends such a wait.
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
  /// Closes and ignores the result; for files that are only read, or are being thrown away.
  void reset();
  /// Closes and reports a failure (a network file system may report a failed write only here). Throws DataError.
  void close(const std::filesystem::path& path);

 private:
  int fd_ = -1;
};

/// The error of a failed call: "PATH: cannot ACTION: REASON. ADVICE."
DataError system_error(const std::filesystem::path& path, std::string_view action, int error_number);

/// What a mode of stat(2) is, for messages: "a folder", "a named pipe", "a device", "a socket", "a regular file".
std::string_view file_type_name(unsigned mode);

/// Whether a directory has an entry `path`. A link that leads nowhere is one: opening it says what is wrong. So is what
/// cannot be looked at.
bool is_present(const std::filesystem::path& path);

/// Where the symbolic links at the end of a path lead, also if nothing is there yet.
struct LinkTarget {
  std::filesystem::path path;
  int descriptor = -1;  ///< the number of an open file of this process, which the path names: /dev/stdin, /dev/fd/3
};

/// Throws DataError that names `path` for links that go in a circle.
LinkTarget follow_links(const std::filesystem::path& path);

/// Opens a regular file for reading, without ever waiting. Throws DataError for anything else.
UniqueFd open_for_reading(const std::filesystem::path& path);
/// Opens what can be read once, from start to end: a regular file, a pipe, a device such as /dev/stdin. Waits for the
/// first bytes of a pipe. Throws DataError; InterruptedError if a signal ends the wait.
UniqueFd open_stream(const std::filesystem::path& path);
/// Reads at most `buffer.size()` bytes, 0 at the end. Throws DataError; InterruptedError if a signal ends a wait.
std::size_t read_some(int fd, std::span<char> buffer, const std::filesystem::path& path);
/// All bytes, or more than `max_bytes` of a longer file, which the caller refuses in words of its own.
std::string read_all(const UniqueFd& fd, const std::filesystem::path& path, std::size_t max_bytes);

/// Writes to what may keep a writer waiting: a pipe, a terminal. 0, or the errno; EINTR if a signal ended a wait.
int write_stream(int fd, std::span<const char> bytes);

/// Removes a file, or a folder with all in it, that nothing depends on; if it cannot, a warning names it.
void remove_or_warn(const std::filesystem::path& path);

}  // namespace adept
