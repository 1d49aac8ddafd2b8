#include "adept/core/signals.h"

#include <unistd.h>

#include <csignal>

#include "adept/core/error.h"

namespace adept {
namespace {

volatile std::sig_atomic_t g_signal = 0;

void on_signal(int signal) {
  if (g_signal != 0) _exit(128 + signal);
  g_signal = signal;
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int pending_signal() { return g_signal; }

void throw_if_interrupted() {
  if (g_signal == 0) return;
  const bool interrupted = g_signal == SIGINT;
  throw InterruptedError(interrupted ? "interrupted (SIGINT)" : "terminated (SIGTERM)",
                         interrupted ? ExitCode::kInterrupted : ExitCode::kTerminated);
}

}  // namespace adept
