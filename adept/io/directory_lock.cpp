#include "adept/io/directory_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <system_error>

#include "adept/core/log.h"

namespace adept::io {
namespace {

namespace fs = std::filesystem;

std::string holder_of(int fd, const fs::path& path) {
  std::array<char, 32> text{};
  const std::size_t size = read_some(fd, text, path);
  return size == 0 ? "another process" : "process " + std::string(text.data(), size);
}

}  // namespace

DirectoryLock::DirectoryLock(const fs::path& directory) {
  const fs::path path = directory / kFileName;
  fd_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!fd_.is_open()) throw system_error(path, "create", errno);
  if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      log_warning(
          "{}: this file system does not support locks ({}). Make sure that no other adept process uses this folder.",
          directory.string(), std::generic_category().message(errno));
      return;
    }
    throw DataError("{}: {} is using this folder. Wait until it exits, or choose another folder.", directory.string(),
                    holder_of(fd_.get(), path));
  }
  if (::ftruncate(fd_.get(), 0) != 0) throw system_error(path, "write", errno);
  const std::string holder = std::to_string(::getpid());
  write_all(fd_.get(), std::as_bytes(std::span(holder)), path);
}

}  // namespace adept::io
