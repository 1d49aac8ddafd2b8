// A signal at any point of what computes.
#pragma once

#include <ATen/record_function.h>

#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/core/signals_detail.h"

namespace adept::test {

/// Counts the operations of ATen that start while it lives, and raises SIGTERM at one of them.
class CountedOperations {
 public:
  CountedOperations() : handle_(at::addGlobalCallback(at::RecordFunctionCallback(count_operation))) {
    install_signal_handlers();
  }
  ~CountedOperations() {
    at::removeCallback(handle_);
    interrupt_at_ = -1;
    adept::detail::forget_signal();
  }
  CountedOperations(const CountedOperations&) = delete;
  CountedOperations& operator=(const CountedOperations&) = delete;

  /// Operations of the last work.
  std::int64_t count() const { return operations_; }

  /// The message of the InterruptedError by which `work` ended, after the signal at operation `interrupt_at` (-1: no
  /// signal); nothing where it ended by itself.
  template <typename Work>
  std::optional<std::string> interruption(std::int64_t interrupt_at, Work&& work) {
    operations_ = 0;
    interrupt_at_ = interrupt_at;
    adept::detail::forget_signal();
    std::optional<std::string> message;
    try {
      work();
    } catch (const InterruptedError& error) {
      message = error.what();
    }
    adept::detail::forget_signal();
    return message;
  }

  template <typename Work>
  bool ends(std::int64_t interrupt_at, Work&& work) {
    return !interruption(interrupt_at, work);
  }

 private:
  static std::unique_ptr<at::ObserverContext> count_operation(const at::RecordFunction&) {
    if (operations_++ == interrupt_at_) std::raise(SIGTERM);
    return nullptr;
  }

  inline static std::int64_t operations_ = 0, interrupt_at_ = -1;
  at::CallbackHandle handle_;
};

}  // namespace adept::test
