// Templates of a document: "{question}\n{answer}".
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace adept::data {

/// A text with fields of a record in braces; {{ and }} stand for braces.
struct TextTemplate {
  struct Part {
    std::string text;       ///< in front of the field
    std::size_t field = 0;  ///< of `fields`; fields.size(): none, the last part
  };
  std::vector<Part> parts;
  std::vector<std::string> fields;  ///< each once, in the order of their first use
};

/// Throws ConfigError, "found X; expected Y", for a brace that is not closed or not opened, an empty field, and a
/// template without fields.
TextTemplate parse_text_template(std::string_view text);

}  // namespace adept::data
