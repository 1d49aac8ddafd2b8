// Messages for the user, on standard error, through spdlog. Results go to standard output and to files.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace adept {

/// Sets up the process's logger: standard error, "warning: ..." and "error: ..." prefixes, no time stamps. The level
/// comes from $ADEPT_LOG (debug, info, warn, error, off; default info; another value is reported and ignored).
void init_logging();

/// Hides messages of the level info and progress lines: warnings and errors stay.
void set_quiet();

/// A table of several lines, as information.
void log_table(const std::string& table);

/// Logs a message unless the same text was logged this way before: for what is found again each time a model is opened.
void log_once(spdlog::level::level_enum level, const std::string& message);

}  // namespace adept
