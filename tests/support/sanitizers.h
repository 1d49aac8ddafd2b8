// Whether the test program is linked with sanitizers, and what is smaller then. Link time decides, because the tests
// themselves may be compiled without sanitizers.
#pragma once

#include <cstddef>

extern "C" void __asan_init() __attribute__((weak));

namespace adept::test {

inline bool has_sanitizers() { return __asan_init != nullptr; }

/// The size of an input that shows how time or memory grows: 16 times smaller under sanitizers, which check the same code
/// and are much slower.
inline std::size_t large(std::size_t size) { return has_sanitizers() ? size / 16 : size; }

}  // namespace adept::test
