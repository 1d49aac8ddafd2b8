// JSON as used everywhere here: key order is kept, so that a config.json is written back as it was read.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace adept {

using Json = nlohmann::ordered_json;

/// Parses a whole file. Throws DataError with the path, and the line and column of the first fault. Bytes that are not
/// UTF-8, duplicate keys and nesting beyond 256 levels are faults.
Json read_json(const std::filesystem::path& path);

/// Parses text; `where` names it in errors.
Json parse_json(std::string_view text, const std::string& where);

}  // namespace adept
