// Detects text in UTF-16 and UTF-32, which Windows programs write, so errors can name the encoding.
#pragma once

#include <string>
#include <string_view>

namespace adept {

/// "UTF-16" or "UTF-32" if the text starts with its byte order mark, or with zeros in every other byte; else empty.
std::string_view foreign_encoding(std::string_view start);

/// "found UTF-16 text; expected UTF-8. Convert it: iconv ..." for such text, else empty.
std::string foreign_encoding_problem(std::string_view start);

}  // namespace adept
