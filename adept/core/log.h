// Messages for the user, on standard error. Results go to standard output and to files. spdlog writes them; it stays in
// log.cpp, because each file that includes it compiles fmt's formatter again.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace adept {

enum class LogLevel { kInfo, kWarning, kError };

/// Sets up the process's logger: standard error, "warning: ..." and "error: ..." prefixes, no time stamps. The level
/// comes from $ADEPT_LOG (info, warn, error, off; default info; another value is reported and ignored).
void init_logging();

/// Hides info messages and progress lines; warnings and errors remain.
void set_quiet();

/// For a process of a job other than the first: hides what set_quiet hides, and puts "[rank N] " in front of the rest.
void set_rank(int rank);
/// "[rank N] " after set_rank; otherwise empty.
std::string rank_prefix();

/// Whether messages of this level are shown.
bool logs(LogLevel level);

void log_message(LogLevel level, const std::string& message);

/// Logs a formatted message.
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
/// A warning about what all processes of a job find alike, such as the model: only the first one logs it.
template <typename... Args>
void log_common_warning(fmt::format_string<Args...> format, Args&&... args) {
  if (rank_prefix().empty()) log_message(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}

/// Logs a table of several lines at level info.
void log_table(const std::string& table);

/// Logs a message once per text, in the first process of a job only: for findings that recur each time a model is
/// opened, and that all processes make.
void log_once(LogLevel level, const std::string& message);

}  // namespace adept
