#include "adept/data/text_template.h"

#include <algorithm>

#include "adept/core/error.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

std::size_t index_of(std::vector<std::string>& fields, std::string_view name) {
  const auto known = std::find(fields.begin(), fields.end(), name);
  const auto index = static_cast<std::size_t>(known - fields.begin());
  if (known == fields.end()) fields.emplace_back(name);
  return index;
}

}  // namespace

TextTemplate parse_text_template(std::string_view text) {
  constexpr char kExpected[] = "a text with fields in braces, such as {question}; {{ and }} stand for braces";
  TextTemplate result;
  std::string literal;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c != '{' && c != '}') {
      literal += c;
    } else if (at + 1 < text.size() && text[at + 1] == c) {
      literal += c;
      ++at;
    } else {
      const std::size_t end = c == '{' ? text.find_first_of("{}", at + 1) : std::string_view::npos;
      if (end == std::string_view::npos || text[end] == '{')
        throw ConfigError("found a single {} at {}; expected {}", c, io::quote(text.substr(at, 20)), kExpected);
      const std::string_view name = text.substr(at + 1, end - at - 1);
      if (name.empty()) throw ConfigError("found a field without a name; expected {}", kExpected);
      result.parts.push_back({literal, index_of(result.fields, name)});
      literal.clear();
      at = end;
    }
  }
  if (result.fields.empty()) throw ConfigError("found no field in {}; expected {}", io::quote(text), kExpected);
  result.parts.push_back({literal, result.fields.size()});
  return result;
}

}  // namespace adept::data
