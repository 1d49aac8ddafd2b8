// Work in a process of its own, where it can recurse, loop or allocate without end and end nothing else.
#pragma once

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>

namespace adept {

/// The child ended without a result; the message says how ("took more than 10 s of processor time").
struct ChildFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What the child may use.
struct ChildLimits {
  int seconds;         ///< of processor time
  std::size_t memory;  ///< bytes, beside what this process has
};

/// What `work` returns, computed in a child process. `work` must not throw, and may allocate and compute, no more:
/// other threads of this process do not exist in the child.
///
/// Throws ChildFailure; InterruptedError if a signal arrives meanwhile; std::system_error if no process can be made.
std::string run_in_child(const std::function<std::string()>& work, const ChildLimits& limits);

}  // namespace adept
