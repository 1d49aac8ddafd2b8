#include "adept/io/use_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

namespace adept::io {

UniqueFd lock_for_use(const std::filesystem::path& file) {
  UniqueFd fd(::open(file.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (fd.is_open() && ::flock(fd.get(), LOCK_SH) != 0) fd.reset();
  return fd;
}

std::optional<UniqueFd> lock_if_unused(const std::filesystem::path& file) {
  UniqueFd fd(::open(file.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));  // network file systems lock only writable files
  if (!fd.is_open()) return errno == ENOENT ? std::optional(UniqueFd()) : std::nullopt;
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return std::nullopt;
  return fd;
}

}  // namespace adept::io
