#include "adept/core/text_encoding.h"

#include <fmt/format.h>

#include <algorithm>

namespace adept {

std::string_view foreign_encoding(std::string_view start) {
  using namespace std::string_view_literals;
  if (start.starts_with("\xff\xfe\0\0"sv) || start.starts_with("\0\0\xfe\xff"sv)) return "UTF-32";
  if (start.starts_with("\xff\xfe"sv) || start.starts_with("\xfe\xff"sv)) return "UTF-16";
  constexpr std::size_t kFewest = 8, kMost = 64;
  const std::size_t length = std::min(start.size(), kMost) / 2 * 2;
  if (length < kFewest) return "";
  std::size_t zeros[2] = {};
  for (std::size_t i = 0; i < length; ++i) zeros[i % 2] += start[i] == '\0' ? 1 : 0;
  const bool alternates = (zeros[0] == length / 2 && zeros[1] == 0) || (zeros[1] == length / 2 && zeros[0] == 0);
  return alternates ? "UTF-16" : "";
}

std::string foreign_encoding_problem(std::string_view start) {
  const std::string_view encoding = foreign_encoding(start);
  if (encoding.empty()) return "";
  return fmt::format("found {0} text; expected UTF-8. Convert it: iconv -f {0} -t UTF-8 FILE > NEW.", encoding);
}

}  // namespace adept
