// One text out of a line that is a JSON object. Internal to adept::data.
#pragma once

#include <string>
#include <string_view>

namespace adept::data {

/// Why a line gave no text.
struct RecordFault {
  std::string reason;  ///< as it is counted: "invalid JSON", "not an object", "missing field", ...
  std::string found;   ///< for the message
};

/// Takes the string of the member `field` out of `line`, which must be one JSON object (RFC 8259) from its first byte
/// to its last, blanks aside. Nothing but that string is kept in memory, and the time is linear whatever the line
/// holds. `line` must be valid UTF-8. False, with `fault` set, if there is no such text.
/// Throws InterruptedError after a signal.
bool read_record(std::string_view line, const std::string& field, std::string& text, RecordFault& fault);

}  // namespace adept::data
