// What a message must say, whatever its wording.
#pragma once

#include <gmock/gmock.h>

#include <sstream>
#include <string>
#include <string_view>

namespace adept::test {

/// Whether each "..." of `wanted` stands for any words of one line of `text`, and everything else is there as it is.
inline bool reads(std::string_view text, std::string_view wanted) {
  constexpr std::string_view kAnyWords = "...";
  const auto first = wanted.find(kAnyWords);
  if (first == std::string_view::npos) return text == wanted;
  if (!text.starts_with(wanted.substr(0, first))) return false;
  std::size_t at = first;  // in the text
  for (std::size_t begin = first + kAnyWords.size();;) {
    const auto next = wanted.find(kAnyWords, begin);
    const std::string_view part = wanted.substr(begin, next - begin);
    const bool is_last = next == std::string_view::npos;
    std::size_t found = text.find(part, at);
    if (is_last) found = text.size() >= at + part.size() && text.ends_with(part) ? text.size() - part.size() : found;
    if (found == std::string_view::npos || text.find('\n', at) < found) return false;
    at = found + part.size();
    if (is_last) return at == text.size();
    begin = next + kAnyWords.size();
  }
}

/// Matches a whole text. A test names the file, the key, the values and the key terms of a message, and leaves its
/// wording open: Reads("run.yaml:6: train.lr: ...unknown key...train.learning_rate?").
MATCHER_P(Reads, pattern, "reads: " + std::string(pattern)) { return reads(std::string(arg), std::string(pattern)); }

/// Matches a text with a line that contains such a pattern.
MATCHER_P(Says, pattern, "says: " + std::string(pattern)) {
  std::istringstream lines{std::string(arg)};
  for (std::string line; std::getline(lines, line);)
    if (reads(line, "..." + std::string(pattern) + "...")) return true;
  return false;
}

}  // namespace adept::test
