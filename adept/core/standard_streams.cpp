#include "adept/core/standard_streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "adept/core/file.h"

namespace adept {
namespace {

struct Stream {
  int fd;
  bool stops_at_error;  // the output must not have gaps
  int error = 0;
};
Stream g_output{STDOUT_FILENO, true}, g_error{STDERR_FILENO, false};

ssize_t write_to(void* cookie, const char* data, std::size_t size) {
  auto& stream = *static_cast<Stream*>(cookie);
  if (stream.error != 0 && stream.stops_at_error) return static_cast<ssize_t>(size);
  const int error = write_stream(stream.fd, {data, size});
  if (error != 0) stream.error = error;
  return static_cast<ssize_t>(size);
}

// glibc lets a program assign to stdout and stderr.
void replace(std::FILE*& file, Stream& stream, int buffering) {
  std::FILE* replacement = ::fopencookie(&stream, "w", {nullptr, write_to, nullptr, nullptr});
  if (replacement == nullptr) return;
  std::setvbuf(replacement, nullptr, buffering, buffering == _IONBF ? 0 : BUFSIZ);
  file = replacement;
}

}  // namespace

void open_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    if (::open("/dev/null", O_RDWR) < 0) [[maybe_unused]]
      const int taken = ::open("/", O_RDONLY);
  }
  replace(stdout, g_output, ::isatty(STDOUT_FILENO) == 1 ? _IOLBF : _IOFBF);
  replace(stderr, g_error, _IONBF);
}

int output_error() { return g_output.error; }

}  // namespace adept
