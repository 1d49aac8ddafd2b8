// Extracts fields from a text that is a JSON object. Internal to adept::data.
#pragma once

#include <cstddef>
#include <string_view>

#include "adept/data/readers/reader.h"

namespace adept::data {

/// Extracts the wanted fields of `text`, which must be exactly one JSON object (RFC 8259), apart from white space.
/// Keeps only their values in memory and takes linear time for any input. `text` must be valid UTF-8. False, with
/// reason and finding in `fault`, for anything else, and for a field that occurs twice. Throws InterruptedError after a
/// signal.
bool read_json_record(std::string_view text, const WantedFields& wanted, Record& record, Fault& fault);

/// Where, from `at` on, a quote, a backslash or a control character follows in a JSON string; the end if none does.
std::size_t end_of_plain_text(std::string_view text, std::size_t at);

}  // namespace adept::data
