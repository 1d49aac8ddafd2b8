#include "adept/core/signals.h"

#include <unistd.h>

#include <csignal>
#include <string_view>

#include "adept/core/error.h"

namespace adept {
namespace {

volatile std::sig_atomic_t g_signal = 0;

void on_signal(int signal) {
  if (g_signal != 0) _exit(128 + signal);
  g_signal = signal;
}

// Nothing but async-signal-safe calls: the interrupted code may hold any lock.
void on_bus_error(int) {
  constexpr std::string_view kMessage =
      "error: a file that is being read became shorter, or its disk failed. Get the model or data again, and do not "
      "change them while they are in use.\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, kMessage.data(), kMessage.size());
  _exit(static_cast<int>(ExitCode::kFailure));
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction bus_error = {};
  bus_error.sa_handler = on_bus_error;
  sigemptyset(&bus_error.sa_mask);
  sigaction(SIGBUS, &bus_error, nullptr);
}

int pending_signal() { return g_signal; }

void throw_if_interrupted() {
  if (g_signal == 0) return;
  const bool interrupted = g_signal == SIGINT;
  throw InterruptedError(interrupted ? "interrupted (SIGINT)" : "terminated (SIGTERM)",
                         interrupted ? ExitCode::kInterrupted : ExitCode::kTerminated);
}

}  // namespace adept
