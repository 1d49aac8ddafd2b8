// Where adept keeps what other runs of the same user can use again.
#pragma once

#include <filesystem>

namespace adept::io {

/// $XDG_CACHE_HOME/adept, or ~/.cache/adept, or a folder for temporary files where neither variable is set. It need not
/// exist.
std::filesystem::path cache_directory();

}  // namespace adept::io
