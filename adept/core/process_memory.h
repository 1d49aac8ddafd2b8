// The memory of this process.
#pragma once

#include <cstdint>

namespace adept {

/// Highest resident memory of the process since reset_peak_rss (of its whole life where the system keeps no other),
/// in bytes.
std::int64_t peak_rss_bytes();
void reset_peak_rss();

}  // namespace adept
