// SIGINT, SIGTERM, SIGHUP and SIGXCPU (the soft limit of CPU time, ulimit -S -t): the first asks the running stage to
// save and stop; another SIGINT or SIGTERM ends the process at once.
#pragma once

namespace adept {

/// Installs the handlers. Call once, from main. SIGHUP is left alone where it was ignored (nohup). A closed pipe and
/// the limit of a file's size (ulimit -f) become errors of the write. SIGBUS, which a memory-mapped file raises that
/// becomes shorter or cannot be read, ends the process with a message and exit code 1.
void install_signal_handlers();
/// The signal that arrived, or 0. Long loops ask between steps.
int pending_signal();
/// Throws InterruptedError (exit code 128 + the signal) if a signal arrived; for stages that have nothing to save.
void throw_if_interrupted();
/// A descriptor that can be read as soon as a signal arrived, for poll(2); -1 before the handlers are installed.
int signal_descriptor();
/// Waits until `fd` is ready for `events` of poll(2), or has ended. Throws InterruptedError if a signal arrives first.
void wait_until_ready(int fd, short events);

}  // namespace adept
