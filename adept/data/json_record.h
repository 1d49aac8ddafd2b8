// Extracts one text from a line that is a JSON object. Internal to adept::data.
#pragma once

#include <string>
#include <string_view>

namespace adept::data {

/// The reason why a line produced no text.
struct RecordFault {
  std::string reason;  ///< used for counting: "invalid JSON", "not an object", "missing field", ...
  std::string found;   ///< for the message
};

/// Extracts the string member `field` from `line`, which must be exactly one JSON object (RFC 8259), apart from white
/// space. Keeps only that string in memory and takes linear time for any input. `line` must be valid UTF-8. False, with
/// `fault` set, if there is no such text. Throws InterruptedError after a signal.
bool read_record(std::string_view line, const std::string& field, std::string& text, RecordFault& fault);

}  // namespace adept::data
