// Starts the processes of a job on this machine: `--nproc N`.
#pragma once

#include <string>
#include <vector>

namespace adept::dist {

/// Runs this program N times with `arguments` (without its name), and the variables from which read_launch knows each
/// process; they meet at a store that this process serves to this machine alone.
///
/// Signals are passed on. When the first process fails, the others get a few seconds to end by themselves, then
/// SIGTERM, then SIGKILL; stopped ones (SIGSTOP) get SIGKILL. If this process dies, they are killed. Returns the exit
/// code of the first failure (128 + the signal that killed it), or 0.
int run_local_processes(int count, const std::vector<std::string>& arguments);

}  // namespace adept::dist
