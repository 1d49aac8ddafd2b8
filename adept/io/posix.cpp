#include "adept/io/posix.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace adept::io {

void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw system_error(path, "write", errno);
    if (count == 0) throw system_error(path, "write", EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void sync_file(int fd, const std::filesystem::path& path) {
  while (::fsync(fd) != 0) {
    // A pipe or a special file cannot be synced and has no data to lose.
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
