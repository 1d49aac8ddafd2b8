#pragma once

#include <string>

namespace adept {

/// Of this machine; "localhost" if it is not known.
std::string host_name();

}  // namespace adept
