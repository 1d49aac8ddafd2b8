#include "adept/io/cache_directory.h"

#include <cstdlib>

namespace adept::io {

std::filesystem::path cache_directory() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  const std::filesystem::path folder = cache != nullptr && *cache != '\0' ? std::filesystem::path(cache)
                                       : home != nullptr && *home != '\0' ? std::filesystem::path(home) / ".cache"
                                                                          : std::filesystem::temp_directory_path();
  return folder / "adept";
}

}  // namespace adept::io
