// Messages for the user, on standard error, through spdlog. Results go to standard output and to files.
#pragma once

#include <spdlog/spdlog.h>

namespace adept {

/// Sets up the process's logger: standard error, "warning: ..." and "error: ..." prefixes, no time stamps. The level
/// comes from $ADEPT_LOG (debug, info, warn, error, off; default info; another value is reported and ignored).
void init_logging();

}  // namespace adept
