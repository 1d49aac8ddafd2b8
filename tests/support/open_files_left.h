// Makes a process run out of open files.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "adept/core/file.h"

namespace adept::test {

/// While it lives, the process can open so many files and no more.
class OpenFilesLeft {
 public:
  explicit OpenFilesLeft(int count) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit low = {.rlim_cur = std::min<rlim_t>(before_.rlim_cur, 512), .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &low);
    for (int fd = 0; (fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) taken_.emplace_back(fd);
    taken_.resize(taken_.size() - static_cast<std::size_t>(count));
  }
  ~OpenFilesLeft() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  OpenFilesLeft(const OpenFilesLeft&) = delete;
  OpenFilesLeft& operator=(const OpenFilesLeft&) = delete;

 private:
  rlimit before_ = {};
  std::vector<UniqueFd> taken_;
};

}  // namespace adept::test
