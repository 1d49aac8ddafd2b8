// Text in other encodings than UTF-8, which Windows programs write: named, so that nobody hunts for a damaged byte.
#pragma once

#include <string>
#include <string_view>

namespace adept {

/// "UTF-16" or "UTF-32" where text begins so: with their byte order mark, or with every other byte zero. Else empty.
std::string_view foreign_encoding(std::string_view start);

/// "is UTF-16 text; only UTF-8 is read. Convert it: iconv ..." for such text, else empty.
std::string foreign_encoding_problem(std::string_view start);

}  // namespace adept
