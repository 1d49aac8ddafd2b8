#include "adept/io/directory_lock.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <system_error>

#include "adept/core/log.h"
#include "adept/core/signals.h"

namespace adept::io {
namespace {

namespace fs = std::filesystem;

constexpr int kLockInterval = 100;  // milliseconds between two attempts

constexpr const char* kUnknownHolder = "another process";

// Unknown for the moment between taking the lock and writing the process's number.
std::string holder_of(int fd, const fs::path& path) {
  std::array<char, 32> text{};
  const std::size_t size = read_some(fd, text, path);
  return size == 0 ? kUnknownHolder : "process " + std::string(text.data(), size);
}

// False if the file was removed after it was opened: others lock a new one.
bool is_still_named(int fd, const fs::path& path) {
  struct stat opened = {}, named = {};
  return ::fstat(fd, &opened) == 0 && ::stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

}  // namespace

DirectoryLock::DirectoryLock(fs::path directory, OnLocked on_locked) : directory_(std::move(directory)) {
  const fs::path path = directory_ / kFileName;
  bool told = false;
  while (!try_to_lock()) {
    const std::string holder = holder_of(fd_.get(), path);
    if (on_locked == OnLocked::kFail)
      throw DataError("{}: {} is using this folder. Wait until it exits, or choose another folder.",
                      directory_.string(), holder);
    if (!told && (waited_ || holder != kUnknownHolder)) {
      log_info("{}: waiting for {}, which is using this folder", directory_.string(), holder);
      told = true;
    }
    waited_ = true;
    throw_if_interrupted();
    pollfd signal = {signal_descriptor(), POLLIN, 0};
    ::poll(&signal, 1, kLockInterval);
    throw_if_interrupted();
  }
}

bool DirectoryLock::try_to_lock() {
  const fs::path path = directory_ / kFileName;
  for (;;) {
    fd_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (!fd_.is_open()) throw system_error(path, "create", errno);
    if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return false;
      log_warning(
          "{}: this file system does not support locks ({}). Make sure that no other adept process uses this folder.",
          directory_.string(), std::generic_category().message(errno));
      return true;
    }
    if (!is_still_named(fd_.get(), path)) continue;
    if (::ftruncate(fd_.get(), 0) != 0) throw system_error(path, "write", errno);
    const std::string holder = std::to_string(::getpid());
    write_all(fd_.get(), std::as_bytes(std::span(holder)), path);
    return true;
  }
}

void DirectoryLock::remove_file() const { ::unlink((directory_ / kFileName).c_str()); }

}  // namespace adept::io
