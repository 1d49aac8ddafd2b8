#include "adept/core/signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <string_view>

#include "adept/core/error.h"
#include "adept/core/signals_detail.h"

namespace adept {
namespace {

volatile std::sig_atomic_t g_signal = 0;
volatile std::sig_atomic_t g_has_arrived = 0;  // at this process, not at another one of the job
volatile std::sig_atomic_t g_descriptor = -1;

// SIGHUP arrives twice (from the kernel and the shell) or right after another signal, and SIGXCPU every second: they
// never count as the second signal.
void on_signal(int signal) {
  if (g_has_arrived != 0 && signal != SIGHUP && signal != SIGXCPU) _exit(kSignalExitCode + signal);
  g_has_arrived = 1;
  take_signal(signal);
}

// Only async-signal-safe calls: the interrupted code may hold any lock.
void on_bus_error(int) {
  constexpr std::string_view kMessage =
      "error: a file was truncated while in use, or its disk failed. Download or copy the model or data again, and do "
      "not change them while they are in use.\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, kMessage.data(), kMessage.size());
  _exit(static_cast<int>(ExitCode::kFailure));
}

}  // namespace

void install_signal_handlers() {
  g_descriptor = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGXCPU, &action, nullptr);
  struct sigaction hang_up = {};
  sigaction(SIGHUP, nullptr, &hang_up);
  if (hang_up.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  struct sigaction bus_error = {};
  bus_error.sa_handler = on_bus_error;
  sigemptyset(&bus_error.sa_mask);
  sigaction(SIGBUS, &bus_error, nullptr);
}

void detail::forget_signal() {
  g_signal = 0;
  g_has_arrived = 0;
}

int pending_signal() { return g_signal; }

// Also called by the handler.
void take_signal(int signal) {
  if (g_signal != 0) return;
  g_signal = signal;
  const int old_errno = errno;
  constexpr std::uint64_t kOne = 1;
  [[maybe_unused]] const ssize_t ignored = ::write(g_descriptor, &kOne, sizeof kOne);
  errno = old_errno;
}

InterruptedError interrupted_by(int signal) {
  const char* what = signal == SIGINT ? "interrupted (SIGINT)" : "terminated (SIGTERM)";
  if (signal == SIGHUP) what = "the terminal was closed (SIGHUP)";
  if (signal == SIGXCPU) what = "the CPU time limit was reached (SIGXCPU, ulimit -t)";
  return {what, static_cast<ExitCode>(kSignalExitCode + signal)};
}

int signal_of(const InterruptedError& error) { return static_cast<int>(error.exit_code()) - kSignalExitCode; }

void throw_if_interrupted() {
  if (g_signal != 0) throw interrupted_by(g_signal);
}

int signal_descriptor() { return g_descriptor; }

void wait_until_ready(int fd, short events) {
  pollfd polled[] = {{fd, events, 0}, {signal_descriptor(), POLLIN, 0}};
  while (polled[0].revents == 0) {
    throw_if_interrupted();
    if (::poll(polled, 2, -1) < 0 && errno != EINTR) return;  // the call that follows the wait reports the error
  }
}

}  // namespace adept
