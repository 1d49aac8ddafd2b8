#include "adept/core/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <new>
#include <system_error>

#include "adept/core/signals.h"

namespace adept {
namespace {

constexpr int kOutOfMemory = 77;  // the child's exit code

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

void limit(int resource, rlim_t value) {
  const rlimit limits = {value, value};
  setrlimit(static_cast<__rlimit_resource>(resource), &limits);
}

/// Bytes of memory that this process can write to; 0 if the system does not report it.
std::size_t data_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t size = 0, resident = 0, shared = 0, text = 0, library = 0, data = 0;
  file >> size >> resident >> shared >> text >> library >> data;
  return data * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

[[noreturn]] void run_as_child(const std::function<std::string()>& work, const ChildLimits& limits, int output,
                               pid_t parent) {
  // If the parent is killed, the child ends too; otherwise it would keep the parent's locks.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) _exit(1);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGXCPU, SIGBUS, SIGPIPE}) std::signal(signal, SIG_DFL);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, static_cast<rlim_t>(limits.seconds));
  if (const std::size_t used = data_bytes(); used > 0) limit(RLIMIT_DATA, used + limits.memory);
  std::set_new_handler([] { _exit(kOutOfMemory); });
  const std::string result = work();
  for (std::size_t sent = 0; sent < result.size();) {
    const ssize_t n = ::write(output, result.data() + sent, result.size() - sent);
    if (n < 0 && errno != EINTR) _exit(1);
    if (n > 0) sent += static_cast<std::size_t>(n);
  }
  _exit(0);
}

/// Everything up to the end of the pipe.
std::string read_all(int input) {
  std::string result;
  char buffer[65536];
  while (true) {
    wait_until_ready(input, POLLIN);
    const ssize_t n = ::read(input, buffer, sizeof buffer);
    if (n < 0 && errno != EINTR) fail("reading from a child process");
    if (n == 0) return result;
    if (n > 0) result.append(buffer, static_cast<std::size_t>(n));
  }
}

/// The child and its pipe. The destructor always cleans up both.
struct Child {
  pid_t pid = -1;
  int input = -1;

  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  Child(pid_t p, int in) : pid(p), input(in) {}
  ~Child() {
    ::close(input);
    if (pid < 0) return;
    ::kill(pid, SIGKILL);
    wait();
  }
  int wait() {
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    pid = -1;
    return status;
  }
};

}  // namespace

std::string run_in_child(const std::function<std::string()>& work, const ChildLimits& limits) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("creating a pipe");
  const pid_t parent = ::getpid(), pid = ::fork();
  if (pid < 0) {
    const int error = errno;
    ::close(ends[0]);
    ::close(ends[1]);
    errno = error;
    fail("creating a process");
  }
  if (pid == 0) run_as_child(work, limits, ends[1], parent);
  ::close(ends[1]);
  Child child(pid, ends[0]);
  std::string result = read_all(child.input);
  const int status = child.wait();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return result;
  if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL))
    throw ChildFailure(fmt::format("used more than {} s of CPU time, or was killed", limits.seconds));
  if (WIFEXITED(status) && WEXITSTATUS(status) == kOutOfMemory)
    throw ChildFailure(fmt::format("used more than {} MB of memory", limits.memory / 1'000'000));
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) throw ChildFailure("nested or recursed too deeply");
  throw ChildFailure(WIFSIGNALED(status) ? fmt::format("was killed by signal {}", WTERMSIG(status))
                                         : fmt::format("exited with code {}", WEXITSTATUS(status)));
}

}  // namespace adept
