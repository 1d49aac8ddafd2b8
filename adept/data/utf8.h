// Checks whether text is UTF-8.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace adept::data {

/// Offset of the first byte sequence that is not well-formed UTF-8 (Unicode 15, table 3-7: no overlong forms, no
/// surrogates, nothing above U+10FFFF); nothing if the text is valid.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

}  // namespace adept::data
