// The alphabet of byte-level BPE: each byte as one printable character (GPT-2, encoder.py, bytes_to_unicode).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace adept::data::tok {

/// Code points of the 256 bytes: printable Latin-1 bytes map to themselves, the rest are U+0100 .. U+0143 in order.
const std::array<char32_t, 256>& byte_alphabet();

/// Appends the characters of all bytes, which are well-formed UTF-8. Throws InterruptedError after a signal.
void append_byte_characters(std::string& out, std::string_view bytes);

/// The bytes that `characters` represent; nothing if one of them is not in the alphabet.
std::optional<std::string> bytes_of_characters(std::string_view characters);

}  // namespace adept::data::tok
