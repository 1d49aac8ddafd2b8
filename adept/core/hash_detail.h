// Hashing, for tests.
#pragma once

#include <cstdint>

namespace adept::detail {

/// Bytes that this process has hashed.
std::int64_t hashed_bytes();

}  // namespace adept::detail
