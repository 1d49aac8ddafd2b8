#include "adept/core/process_memory.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

namespace adept {

// The kernel forgets a process's peak where a 5 is written here (man 5 proc).
void reset_peak_rss() { std::ofstream("/proc/self/clear_refs") << 5; }

std::int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * std::int64_t{1024};
}

}  // namespace adept
