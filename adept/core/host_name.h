#pragma once

#include <string>

namespace adept {

/// Of this machine; "localhost" if it is not known.
std::string host_name();

/// Differs between machines, also between copies of one that have the same name: its name and the kernel's boot id.
std::string machine_identity();

}  // namespace adept
