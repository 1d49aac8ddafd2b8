// Counts what was read from a source of text and what was skipped, and formats them as a table.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/json.h"

namespace adept::data {

/// Counts of one source of text. Everything found is counted: a record is either a document or skipped for a reason.
struct SourceCounts {
  std::int64_t files = 0;
  std::int64_t documents = 0;
  std::int64_t bytes = 0;                         ///< of the documents' text, UTF-8
  std::int64_t tokens = 0;                        ///< ids of the documents; 0 before they are tokenized
  std::map<std::string, std::int64_t> skipped{};  ///< records by reason, such as "empty text"
  std::map<std::string, std::int64_t> ignored{};  ///< files of folders by reason, such as "file with extension .md"

  std::int64_t num_skipped() const;
  bool operator==(const SourceCounts&) const = default;
};

Json to_json(const SourceCounts& counts);
/// The inverse of to_json. Throws DataError, with `where`, for anything else.
SourceCounts source_counts_from_json(const Json& json, const std::string& where);

/// A bad record that was skipped.
struct SkippedRecord {
  std::string position;  ///< "file:line"
  std::string reason;
  std::string found;

  bool operator==(const SkippedRecord&) const = default;
};
inline constexpr std::size_t kMaxListedSkips = 100;

/// {"where", "reason", "found"}.
Json to_json(const SkippedRecord& record);
Json to_json(const std::vector<SkippedRecord>& records);
/// The inverse. Throws DataError, with `where`, for anything else.
std::vector<SkippedRecord> skipped_records_from_json(const Json& json, const std::string& where);

/// Lists skipped records as JSON lines, or removes the list of an earlier text.
void write_skipped(const std::filesystem::path& path, const std::vector<SkippedRecord>& skipped);

/// One row of the table.
struct NamedCounts {
  std::string name;
  SourceCounts counts;
};

/// A table with one row per source and a note per reason:
///
///     source   files  documents     tokens    bytes  skipped
///     medquad      1     14,588  4,512,345  19.1 MB        2
///       medquad: skipped 2 (2 empty text)
///       medquad: ignored 1 (1 file with extension .md)
std::string format_source_table(std::span<const NamedCounts> rows);

}  // namespace adept::data
