#include "adept/io/posix.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

namespace adept::io {
namespace {

// Linux transfers at most this many bytes in one call (read(2), write(2)).
constexpr std::size_t kMaxTransfer = 0x7ffff000;

std::string_view advice(int error_number) {
  switch (error_number) {
    case ENOSPC:
      return "Free space on this file system, or choose a place on another one";
    case EDQUOT:
      return "The quota is used up; free space, or choose another place";
    case EFBIG:
      return "The file is larger than this process or file system allows (see ulimit -f)";
    case EROFS:
      return "The file system is read-only; choose another place";
    case EACCES:
    case EPERM:
      return "Check the owner and the permissions of the file and of the folders above it";
    case ENOENT:
      return "Check the spelling; create the folder if it is missing";
    case ENOTDIR:
      return "A part of the path is a file, not a folder";
    case ENAMETOOLONG:
      return "Choose a shorter name";
    case EMFILE:
    case ENFILE:
      return "Too many files are open (see ulimit -n)";
    case ENOMEM:
      return "Not enough memory, or too many mappings (see vm.max_map_count)";
    case EIO:
      return "The disk or the network file system failed; look at the system's log (dmesg)";
    case ELOOP:
      return "Symbolic links go in a circle";
    default:
      return "";
  }
}

}  // namespace

void UniqueFd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

void UniqueFd::close(const std::filesystem::path& path) {
  if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) throw system_error(path, "close", errno);
}

DataError system_error(const std::filesystem::path& path, std::string_view action, int error_number) {
  const std::string_view what_to_do = advice(error_number);
  return DataError("{}: cannot {}: {}{}{}.", path.string(), action, std::generic_category().message(error_number),
                   what_to_do.empty() ? "" : ". ", what_to_do);
}

UniqueFd open_for_reading(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.is_open()) throw system_error(path, "open for reading", errno);
  struct stat status = {};
  if (::fstat(fd.get(), &status) != 0) throw system_error(path, "look at", errno);
  if (S_ISDIR(status.st_mode)) throw DataError("{}: is a folder; expected a file.", path.string());
  return fd;
}

std::size_t read_some(int fd, std::span<char> buffer, const std::filesystem::path& path) {
  for (;;) {
    const ssize_t count = ::read(fd, buffer.data(), std::min(buffer.size(), kMaxTransfer));
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno != EINTR) throw system_error(path, "read", errno);
  }
}

void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), std::min(bytes.size(), kMaxTransfer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw system_error(path, "write", errno);
    if (count == 0) throw system_error(path, "write", EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void sync_file(int fd, const std::filesystem::path& path) {
  while (::fsync(fd) != 0) {
    // A pipe or a special file cannot be synchronised, and has nothing that could get lost.
    if (errno == EINVAL || errno == ENOTSUP) return;
    if (errno != EINTR) throw system_error(path, "write to the disk (fsync)", errno);
  }
}

void sync_directory(const std::filesystem::path& directory) {
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.is_open()) throw system_error(directory, "open the folder", errno);
  sync_file(fd.get(), directory);
}

std::filesystem::path parent_of(const std::filesystem::path& path) {
  const std::filesystem::path parent = path.parent_path();
  return parent.empty() ? std::filesystem::path(".") : parent;
}

}  // namespace adept::io
