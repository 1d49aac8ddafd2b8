// Quotes external text for messages.
#pragma once

#include <string>
#include <string_view>

namespace adept::io {

/// The text in double quotes, with control characters and invalid UTF-8 escaped, cut after 120 bytes.
std::string quote(std::string_view text);

}  // namespace adept::io
