// Two kinds of failure: errors that the user can fix (typed exceptions) and bugs (ADEPT_CHECK). Nothing aborts; only
// run_program (cli/program.h) turns an exception into an exit code.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace adept {

/// Process exit codes; sysexits are not used because users of trainers test for these. After a signal 128 + its number.
enum class ExitCode : int {
  kOk = 0,
  kFailure = 1,      ///< a file, a disk, a model: anything at run time
  kUsage = 2,        ///< command line or configuration
  kNonFinite = 3,    ///< training stopped: too many non-finite losses or gradients in a row
  kOutOfMemory = 4,  ///< host or device memory
  kInterrupted =
      130,  ///< SIGINT; SIGHUP (closed terminal) gives 129, SIGPIPE (the reader of standard output exited) 141
  kTerminated = 143,  ///< SIGTERM
};

/// Base of all errors that a user can fix. The message says where, what was found, what was expected and what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode exit_code = ExitCode::kFailure)
      : std::runtime_error(message), exit_code_(exit_code) {}
  ExitCode exit_code() const { return exit_code_; }

 private:
  ExitCode exit_code_;
};

/// A wrong command line, configuration file, or combination of the two. Exit code 2.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(message, ExitCode::kUsage) {}
  template <typename First, typename... Rest>
  ConfigError(fmt::format_string<First, Rest...> format, First&& first, Rest&&... rest)
      : ConfigError(fmt::format(format, std::forward<First>(first), std::forward<Rest>(rest)...)) {}
};

/// A file that is missing, unreadable, corrupt, or requires something that this build does not implement. Exit code 1.
class DataError : public Error {
 public:
  explicit DataError(const std::string& message) : Error(message, ExitCode::kFailure) {}
  template <typename First, typename... Rest>
  DataError(fmt::format_string<First, Rest...> format, First&& first, Rest&&... rest)
      : DataError(fmt::format(format, std::forward<First>(first), std::forward<Rest>(rest)...)) {}
};

/// Too many non-finite losses or gradients in a row. Exit code 3.
class NonFiniteError : public Error {
 public:
  explicit NonFiniteError(const std::string& message) : Error(message, ExitCode::kNonFinite) {}
};

/// SIGINT, SIGTERM, SIGHUP or SIGXCPU arrived, and the state has been saved. Exit code 130, 143, 129 or 152.
class InterruptedError : public Error {
 public:
  InterruptedError(const std::string& message, ExitCode exit_code) : Error(message, exit_code) {}
};

/// A broken invariant: a bug in adept, not a user error.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void fail_check(const char* condition, const char* file, int line, const std::string& message);

}  // namespace adept

/// Throws InternalError with the place and a formatted message unless `condition` holds. In every build type.
#define ADEPT_CHECK(condition, ...)                                                                  \
  do {                                                                                               \
    if (!(condition)) ::adept::fail_check(#condition, __FILE__, __LINE__, fmt::format(__VA_ARGS__)); \
  } while (false)
