#include "adept/core/host_name.h"

#include <unistd.h>

#include <array>
#include <fstream>

namespace adept {

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

std::string machine_identity() {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  return host_name() + " " + boot_id;
}

}  // namespace adept
