// The directory for data that other runs of the same user can reuse.
#pragma once

#include <filesystem>

namespace adept::io {

/// $XDG_CACHE_HOME/adept, or ~/.cache/adept, or a folder for temporary files if neither variable is set. It may not
/// exist.
std::filesystem::path cache_directory();

}  // namespace adept::io
