#include "adept/data/readers/formats.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "adept/io/byte_reader.h"

namespace adept::data {

std::unique_ptr<Reader> make_text_reader(const ReaderOptions& options);
std::unique_ptr<Reader> make_json_lines_reader(const ReaderOptions& options);
std::unique_ptr<Reader> make_json_reader(const ReaderOptions& options);
std::unique_ptr<Reader> make_csv_reader(const ReaderOptions& options);
std::unique_ptr<Reader> make_tsv_reader(const ReaderOptions& options);
std::unique_ptr<Reader> make_parquet_reader(const ReaderOptions& options);
std::unique_ptr<Reader> make_arrow_reader(const ReaderOptions& options);

namespace {

constexpr std::size_t kStartBytes = 64;

// What follows the characters that may be in front of JSON.
std::string_view without_blanks(std::string_view start) {
  return start.substr(std::min(start.size(), start.find_first_not_of("\xef\xbb\xbf \t\r\n")));
}

bool starts_object(std::string_view start) { return without_blanks(start).starts_with('{'); }
bool starts_array(std::string_view start) {
  const std::string_view array = without_blanks(start);
  return array.starts_with('[') && starts_object(array.substr(1));
}

bool starts_parquet(std::string_view start) { return start.starts_with("PAR1"); }

// A file, or a stream: a mark, and the length of its first message, a multiple of 8.
bool starts_arrow(std::string_view start) {
  if (start.starts_with("ARROW1")) return true;
  std::int32_t length = 0;
  if (!start.starts_with("\xff\xff\xff\xff") || start.size() < 4 + sizeof length) return false;
  std::memcpy(&length, start.data() + 4, sizeof length);
  return length > 0 && length % 8 == 0;
}

constexpr std::string_view kTextExtensions[] = {".txt", ".md", ".markdown"};
constexpr std::string_view kJsonLinesExtensions[] = {".jsonl", ".ndjson"};
constexpr std::string_view kJsonExtensions[] = {".json"};
constexpr std::string_view kCsvExtensions[] = {".csv"};
constexpr std::string_view kTsvExtensions[] = {".tsv"};
constexpr std::string_view kParquetExtensions[] = {".parquet"};
constexpr std::string_view kArrowExtensions[] = {".arrow", ".feather", ".ipc"};

// Fingerprints contain the index of a row: add rows at the end.
constexpr Format kFormats[] = {
    {"text", kTextExtensions, false, true, nullptr, make_text_reader},
    {"jsonl", kJsonLinesExtensions, true, true, starts_object, make_json_lines_reader},
    {"json", kJsonExtensions, true, true, starts_array, make_json_reader},
    {"csv", kCsvExtensions, true, true, nullptr, make_csv_reader},
    {"tsv", kTsvExtensions, true, true, nullptr, make_tsv_reader},
    {"parquet", kParquetExtensions, true, false, starts_parquet, make_parquet_reader},
    {"arrow", kArrowExtensions, true, false, starts_arrow, make_arrow_reader},
};

std::string in_lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

}  // namespace

std::span<const Format> formats() { return kFormats; }

const Format* format_by_name(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kFormats), std::end(kFormats), [&](const Format& format) { return format.name == name; });
  return found == std::end(kFormats) ? nullptr : found;
}

const Format* format_of_file(const std::filesystem::path& path) {
  const std::string name = in_lower_case(path.filename().string());
  const std::string_view compression = io::compression_extension(name);
  const std::string_view plain = std::string_view(name).substr(0, name.size() - compression.size());
  for (const Format& format : kFormats)
    if (compression.empty() || format.is_compressible)
      for (const std::string_view extension : format.extensions)
        if (plain.ends_with(extension)) return &format;
  return nullptr;
}

const Format& format_of_stream(const std::filesystem::path& path) {
  io::ByteReader reader(path);
  std::string start(kStartBytes, '\0');
  std::size_t size = 0;
  while (size < kStartBytes) {
    const std::size_t count = reader.read({start.data() + size, kStartBytes - size});
    if (count == 0) break;
    size += count;
  }
  start.resize(size);
  for (const Format& format : kFormats)
    if (format.starts != nullptr && format.starts(start)) return format;
  return kFormats[0];
}

std::size_t format_index(const Format& format) { return static_cast<std::size_t>(&format - kFormats); }

std::string accepted_files() {
  std::vector<std::string_view> extensions;
  for (const Format& format : kFormats)
    extensions.insert(extensions.end(), format.extensions.begin(), format.extensions.end());
  return fmt::format("{} files (text forms also compressed: .gz, .zst)", fmt::join(extensions, ", "));
}

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const Format& format : kFormats) names.emplace_back(format.name);
  return names;
}

}  // namespace adept::data
