#include "adept/data/tokenizer/byte_level.h"

#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {
namespace {

constexpr char32_t kLimit = 256 + 68;

bool is_printable(unsigned byte) { return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD); }

}  // namespace

const std::array<char32_t, 256>& byte_alphabet() {
  static const auto table = [] {
    std::array<char32_t, 256> characters{};
    char32_t next = 256;
    for (unsigned byte = 0; byte < 256; ++byte) characters[byte] = is_printable(byte) ? byte : next++;
    return characters;
  }();
  return table;
}

void append_byte_characters(std::string& out, std::string_view bytes) {
  const auto& alphabet = byte_alphabet();
  for (std::size_t i = 0; i < bytes.size();) {
    for (const std::size_t end = part_end(bytes, i); i < end; ++i) {
      const char32_t c = alphabet[static_cast<unsigned char>(bytes[i])];
      if (c < 0x80) {
        out += static_cast<char>(c);
      } else {
        out += static_cast<char>(static_cast<unsigned char>(0xC0 | c >> 6));
        out += static_cast<char>(static_cast<unsigned char>(0x80 | (c & 0x3F)));
      }
    }
  }
}

std::optional<std::string> bytes_of_characters(std::string_view characters) {
  static const auto byte_of = [] {
    std::array<short, kLimit> bytes{};
    bytes.fill(-1);
    for (unsigned byte = 0; byte < 256; ++byte) bytes[byte_alphabet()[byte]] = static_cast<short>(byte);
    return bytes;
  }();
  std::string out;
  for (std::size_t i = 0; i < characters.size();) {
    const char32_t c = decode_utf8(characters, i);
    if (c >= kLimit || byte_of[c] < 0) return std::nullopt;
    out += static_cast<char>(static_cast<unsigned char>(byte_of[c]));
  }
  return out;
}

}  // namespace adept::data::tok
