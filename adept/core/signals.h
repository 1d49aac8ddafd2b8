// SIGINT, SIGTERM, SIGHUP and SIGXCPU (the soft CPU time limit, ulimit -S -t). The first signal asks the running stage
// to save and stop; a second SIGINT or SIGTERM ends the process at once.
#pragma once

#include "adept/core/error.h"

namespace adept {

/// Installs the handlers. Call once, from run_program. SIGHUP stays ignored if it was (nohup). A closed pipe and the
/// file size limit (ulimit -f) become write errors. SIGBUS, raised by a memory-mapped file that is truncated or cannot
/// be read, ends the process with a message and exit code 1.
void install_signal_handlers();
/// The signal that arrived, or 0. Long loops check it between steps.
int pending_signal();
/// As if `signal` arrived, which did at another process of the job. One that arrives here later counts as the first.
void take_signal(int signal);
/// The exit code after a signal, and the number of the signal.
inline constexpr int kSignalExitCode = 128;

/// Throws InterruptedError (exit code 128 + the signal) if a signal arrived; for stages with nothing to save.
void throw_if_interrupted();
/// The exception for `signal`, which another process of the job may have received.
InterruptedError interrupted_by(int signal);
/// The signal of such an exception.
int signal_of(const InterruptedError& error);
/// A descriptor that can be read as soon as a signal arrived, for poll(2); -1 before the handlers are installed.
int signal_descriptor();
/// Waits until `fd` is ready for `events` of poll(2), or has ended. Throws InterruptedError if a signal arrives first.
void wait_until_ready(int fd, short events);

}  // namespace adept
