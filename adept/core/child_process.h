// Runs work in a child process, where unbounded recursion, loops or allocation cannot end this process.
#pragma once

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>

namespace adept {

/// The child ended without a result; the message says how ("used more than 10 s of CPU time").
struct ChildFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Resource limits of the child.
struct ChildLimits {
  int seconds;         ///< of CPU time
  std::size_t memory;  ///< bytes, in addition to this process's
};

/// Returns the result of `work`, computed in a child process. `work` must not throw and may only allocate and compute:
/// other threads of this process do not exist in the child.
///
/// Throws ChildFailure; InterruptedError if a signal arrives meanwhile; std::system_error if no process can be created.
std::string run_in_child(const std::function<std::string()>& work, const ChildLimits& limits);

}  // namespace adept
