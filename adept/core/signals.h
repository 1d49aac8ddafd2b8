// SIGINT and SIGTERM: the first asks the running stage to save and stop, the second ends the process at once.
#pragma once

namespace adept {

/// Installs the handlers. Call once, from main. SIGBUS, which a memory-mapped file raises that becomes shorter or
/// cannot be read, ends the process with a message and exit code 1.
void install_signal_handlers();
/// The signal that arrived, or 0. Long loops ask between steps.
int pending_signal();
/// Throws InterruptedError (exit code 130 or 143) if a signal arrived; for stages that have nothing to save.
void throw_if_interrupted();

}  // namespace adept
