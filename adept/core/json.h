// JSON that preserves the order of keys, so a config.json is written back in its original order.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace adept {

/// For documents with up to a few thousand keys per object (each look-up scans all keys).
using Json = nlohmann::ordered_json;
/// For large documents (an index of weights, a vocabulary): keys are sorted, look-ups take logarithmic time.
using SortedJson = nlohmann::json;

/// Limits of parse and read, so hostile text cannot take unbounded time or memory.
inline constexpr std::int64_t kMaxJsonBytes = std::int64_t{256} << 20;  ///< of a file
inline constexpr int kMaxJsonDepth = 256;
inline constexpr std::size_t kMaxJsonKeys = 20'000;  ///< of one object of a Json; a SortedJson has no such limit

/// Parses a whole file. Throws DataError with the path, and the line and column of the first fault. Bytes that are not
/// UTF-8, a NUL, duplicate keys and the limits above are faults. A document whose keys are gone through, not looked up,
/// may have more of them in one object.
Json read_json(const std::filesystem::path& path, std::size_t max_keys = kMaxJsonKeys);
SortedJson read_sorted_json(const std::filesystem::path& path);

/// Parses text; `where` names it in errors.
Json parse_json(std::string_view text, const std::string& where);
SortedJson parse_sorted_json(std::string_view text, const std::string& where);

/// What the JSON library says of a syntax error: "line 2, column 1: found the end of input; expected '}'".
std::string json_problem(const std::exception& error);

/// One line of a JSON value for messages, cut when long.
std::string brief(const Json& value);

}  // namespace adept
