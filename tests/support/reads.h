// What a message must say, whatever its wording.
#pragma once

#include <gmock/gmock.h>

#include <string>
#include <string_view>

namespace adept::test {

/// Matches a whole text in which each "..." of `pattern` stands for any words of one line. Thus a test names the file,
/// the key, the values and the key terms of a message, and leaves its wording open.
MATCHER_P(Reads, pattern, "reads: " + std::string(pattern)) {
  constexpr std::string_view kAnyWords = "...";
  const std::string_view wanted(pattern);
  const std::string text(arg);
  const auto first = wanted.find(kAnyWords);
  if (first == std::string_view::npos) return text == wanted;
  if (!std::string_view(text).starts_with(wanted.substr(0, first))) return false;
  std::size_t at = first;  // in the text
  for (std::size_t begin = first + kAnyWords.size();;) {
    const auto next = wanted.find(kAnyWords, begin);
    const std::string_view part = wanted.substr(begin, next - begin);
    const bool is_last = next == std::string_view::npos;
    std::size_t found = text.find(part, at);
    if (is_last) found = text.size() >= at + part.size() && text.ends_with(part) ? text.size() - part.size() : found;
    if (found == std::string::npos || text.find('\n', at) < found) return false;
    at = found + part.size();
    if (is_last) return at == text.size();
    begin = next + kAnyWords.size();
  }
}

}  // namespace adept::test
