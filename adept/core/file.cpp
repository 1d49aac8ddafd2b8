#include "adept/core/file.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "adept/core/log.h"
#include "adept/core/signals.h"

namespace adept {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlockBytes = std::size_t{64} << 10;
constexpr int kMaxLinks = 40;  // as the kernel

std::string_view advice(int error_number) {
  switch (error_number) {
    case ENOSPC:
      return "Free space on this file system, or choose a path on another one";
    case EDQUOT:
      return "The disk quota is used up; free space, or choose another path";
    case EFBIG:
      return "The file is larger than this process (file size limit, see ulimit -f) or this file system allows";
    case EROFS:
      return "The file system is read-only; choose another path";
    case EACCES:
    case EPERM:
      return "Check the owner and the permissions of the file and of the folders above it";
    case ENOENT:
      return "Check the spelling; create the folder if it is missing";
    case ENOTDIR:
      return "Part of the path is a file, not a folder";
    case ENAMETOOLONG:
      return "Choose a shorter name";
    case EMFILE:
    case ENFILE:
      return "Too many files are open (see ulimit -n)";
    case ENOMEM:
      return "Not enough memory, or too many mappings (see vm.max_map_count)";
    case EIO:
      return "The disk or the network file system failed; check the system log (dmesg)";
    case ELOOP:
      return "Symbolic links form a loop; remove them, or choose another path";
    case EBUSY:
      return "It may be a mount point; choose a folder inside it";
    case EPIPE:
      return "The process that reads it has exited";
    default:
      return "";
  }
}

// O_NONBLOCK: opening a named pipe must not wait for a writer.
UniqueFd open_without_waiting(const fs::path& path, struct stat& status) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.is_open()) {
    const int error_number = errno;
    if (error_number == ENXIO && ::stat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode))
      throw DataError("{}: is a socket; expected a regular file.", path.string());
    std::error_code error;
    const fs::path target = fs::read_symlink(path, error);
    if (error_number == ENOENT && !error)
      throw DataError("{}: is a symbolic link to {}, which does not exist. Copy the file again, or remove the link.",
                      path.string(), target.string());
    throw system_error(path, "open for reading", error_number);
  }
  if (::fstat(fd.get(), &status) != 0) throw system_error(path, "look at", errno);
  return fd;
}

}  // namespace

void UniqueFd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

void UniqueFd::close(const fs::path& path) {
  if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) throw system_error(path, "close", errno);
}

DataError system_error(const fs::path& path, std::string_view action, int error_number) {
  const std::string_view what_to_do = advice(error_number);
  return DataError("{}: cannot {}: {}{}{}.", path.string(), action, std::generic_category().message(error_number),
                   what_to_do.empty() ? "" : ". ", what_to_do);
}

std::string_view file_type_name(unsigned mode) {
  if (S_ISREG(mode)) return "a regular file";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a named pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

bool is_present(const fs::path& path) {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

LinkTarget follow_links(const fs::path& given) {
  std::error_code error;
  const fs::path descriptors = fs::canonical("/proc/self/fd", error);
  fs::path path = given;
  for (int i = 0; i <= kMaxLinks; ++i) {
    const std::string name = path.filename().string();
    const fs::path parent = path.has_parent_path() ? path.parent_path() : ".";
    const bool is_number = name.find_first_not_of("0123456789") == std::string::npos && !name.empty();
    if (is_number && name.size() < 9 && !descriptors.empty() && fs::canonical(parent, error) == descriptors)
      return {path, std::stoi(name)};
    const fs::path next = fs::read_symlink(path, error);
    if (error) return {path};  // no link
    path = parent / next;
  }
  throw system_error(given, "follow", ELOOP);
}

UniqueFd open_for_reading(const fs::path& path) {
  struct stat status = {};
  UniqueFd fd = open_without_waiting(path, status);
  if (!S_ISREG(status.st_mode))
    throw DataError("{}: is {}; expected a regular file.", path.string(), file_type_name(status.st_mode));
  return fd;
}

UniqueFd open_stream(const fs::path& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode))  // it cannot be opened, but may be open
    if (const int descriptor = follow_links(path).descriptor; descriptor >= 0)
      return UniqueFd(::fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
  UniqueFd fd = open_without_waiting(path, status);
  if (S_ISDIR(status.st_mode)) throw DataError("{}: is a folder; expected a file.", path.string());
  // A pipe that no process has opened for writing yet looks like one that has ended.
  if (S_ISFIFO(status.st_mode)) wait_until_ready(fd.get(), POLLIN);
  return fd;
}

std::size_t read_some(int fd, std::span<char> buffer, const fs::path& path) {
  for (;;) {
    const ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno == EAGAIN)
      wait_until_ready(fd, POLLIN);
    else if (errno != EINTR)
      throw system_error(path, "read", errno);
  }
}

std::string read_all(const UniqueFd& fd, const fs::path& path, std::size_t max_bytes) {
  struct stat status = {};
  std::string text;
  if (::fstat(fd.get(), &status) == 0 && status.st_size > 0)
    text.reserve(std::min(static_cast<std::size_t>(status.st_size), max_bytes));
  std::vector<char> buffer(kBlockBytes);
  while (text.size() <= max_bytes) {
    const std::size_t count = read_some(fd.get(), buffer, path);
    if (count == 0) break;
    text.append(buffer.data(), count);
  }
  return text;
}

int write_stream(int fd, std::span<const char> bytes) {
  while (!bytes.empty()) {
    pollfd polled[] = {{fd, POLLOUT, 0}, {signal_descriptor(), POLLIN, 0}};
    if (::poll(polled, 2, -1) < 0 && errno != EINTR) return errno;
    if (polled[0].revents == 0 && polled[1].revents == 0) continue;
    if (polled[0].revents == 0) return EINTR;
    // A descriptor that is ready accepts this much without waiting.
    const ssize_t count = ::write(fd, bytes.data(), std::min<std::size_t>(bytes.size(), PIPE_BUF));
    if (count < 0 && errno != EINTR && errno != EAGAIN) return errno;
    if (count > 0) bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return 0;
}

void remove_or_warn(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error)
    log_warning("{}: cannot be removed: {}. The file is no longer needed; remove it by hand.", path.string(),
                error.message());
}

}  // namespace adept
