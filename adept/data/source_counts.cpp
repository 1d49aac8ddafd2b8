#include "adept/data/source_counts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/io/atomic_file.h"

namespace adept::data {
namespace {

std::int64_t sum(const std::map<std::string, std::int64_t>& by_reason) {
  std::int64_t total = 0;
  for (const auto& [reason, n] : by_reason) total += n;
  return total;
}

std::string list_reasons(const std::map<std::string, std::int64_t>& by_reason) {
  std::string list;
  for (const auto& [reason, n] : by_reason)
    list += fmt::format("{}{} {}", list.empty() ? "" : ", ", format_count(n), reason);
  return list;
}

std::int64_t read_count(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_integer() || found->get<std::int64_t>() < 0)
    throw DataError("{}: counts.{} is missing or not a count; the file is damaged.", where, key);
  return found->get<std::int64_t>();
}

std::map<std::string, std::int64_t> read_reasons(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_object())
    throw DataError("{}: counts.{} is missing or not an object; the file is damaged.", where, key);
  std::map<std::string, std::int64_t> reasons;
  for (const auto& [reason, n] : found->items()) reasons[reason] = read_count(*found, reason.c_str(), where);
  return reasons;
}

}  // namespace

std::int64_t SourceCounts::num_skipped() const { return sum(skipped); }

Json to_json(const SourceCounts& counts) {
  return Json{{"files", counts.files},   {"documents", counts.documents}, {"bytes", counts.bytes},
              {"tokens", counts.tokens}, {"skipped", counts.skipped},     {"ignored", counts.ignored}};
}

SourceCounts source_counts_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) throw DataError("{}: counts is not an object; the file is damaged.", where);
  SourceCounts counts;
  counts.files = read_count(json, "files", where);
  counts.documents = read_count(json, "documents", where);
  counts.bytes = read_count(json, "bytes", where);
  counts.tokens = read_count(json, "tokens", where);
  counts.skipped = read_reasons(json, "skipped", where);
  counts.ignored = read_reasons(json, "ignored", where);
  return counts;
}

Json to_json(const SkippedRecord& record) {
  return {{"where", record.position}, {"reason", record.reason}, {"found", record.found}};
}

Json to_json(const std::vector<SkippedRecord>& records) {
  Json json = Json::array();
  for (const SkippedRecord& record : records) json.push_back(to_json(record));
  return json;
}

std::vector<SkippedRecord> skipped_records_from_json(const Json& json, const std::string& where) {
  std::vector<SkippedRecord> records;
  const auto text = [&](const Json& record, const char* key) {
    const auto found = record.find(key);
    if (found == record.end() || !found->is_string())
      throw DataError("{}: skipped.{} is missing or not a string; the file is damaged.", where, key);
    return found->get<std::string>();
  };
  if (!json.is_array()) throw DataError("{}: skipped is not a list; the file is damaged.", where);
  for (const Json& record : json) {
    if (!record.is_object()) throw DataError("{}: skipped has a record that is not an object.", where);
    records.push_back({text(record, "where"), text(record, "reason"), text(record, "found")});
  }
  return records;
}

void write_skipped(const std::filesystem::path& path, const std::vector<SkippedRecord>& skipped) {
  if (skipped.empty()) {
    if (is_present(path)) remove_or_warn(path);
    return;
  }
  std::string lines;
  for (const SkippedRecord& record : skipped)
    lines += to_json(record).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (is_present(path) && read_all(open_for_reading(path), path, lines.size()) == lines) return;
  io::write_file_atomically(path, lines);
  log_info("{} lists the first {} skipped records", path.string(), skipped.size());
}

std::string format_source_table(std::span<const NamedCounts> rows) {
  std::vector<std::array<std::string, 6>> cells = {{"source", "files", "documents", "tokens", "bytes", "skipped"}};
  for (const auto& [name, counts] : rows)
    cells.push_back({name, format_count(counts.files), format_count(counts.documents), format_count(counts.tokens),
                     format_bytes(counts.bytes), format_count(counts.num_skipped())});
  std::array<std::size_t, 6> widths{};
  for (const auto& row : cells)
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  std::string table;
  for (const auto& row : cells) {
    table += fmt::format("{:<{}}", row[0], widths[0]);
    for (std::size_t c = 1; c < row.size(); ++c) table += fmt::format("  {:>{}}", row[c], widths[c]);
    table += '\n';
  }
  for (const auto& [name, counts] : rows) {
    if (!counts.skipped.empty())
      table += fmt::format("  {}: skipped {} ({})\n", name, format_count(counts.num_skipped()),
                           list_reasons(counts.skipped));
    if (!counts.ignored.empty())
      table +=
          fmt::format("  {}: ignored {} ({})\n", name, format_count(sum(counts.ignored)), list_reasons(counts.ignored));
  }
  return table;
}

}  // namespace adept::data
