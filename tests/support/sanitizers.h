// What differs in a program that is linked with sanitizers. Its tests may be compiled without them.
#pragma once

#include <cstddef>

extern "C" void __asan_init() __attribute__((weak));

namespace adept::test {

inline bool has_sanitizers() { return __asan_init != nullptr; }

/// The size of an input that shows how time or memory grows: 16 times smaller under sanitizers, which look at the same
/// code and are 10 to 30 times slower.
inline std::size_t large(std::size_t size) { return has_sanitizers() ? size / 16 : size; }

}  // namespace adept::test
