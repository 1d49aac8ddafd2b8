// The table of formats.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "adept/data/readers/reader.h"

namespace adept::data {

struct Format {
  std::string_view name;                         ///< of the option `format`
  std::span<const std::string_view> extensions;  ///< in lower case, with the dot
  bool has_fields;                               ///< records have named fields; else a record is a text
  bool is_compressible;                          ///< files may be compressed as a whole: .jsonl.gz
  /// Whether a stream that starts like this has the format; nullptr: never. A stream of no format is text.
  bool (*starts)(std::string_view);
  std::unique_ptr<Reader> (*open)(const ReaderOptions& options);
};

std::span<const Format> formats();
/// nullptr if there is none.
const Format* format_by_name(std::string_view name);
/// By the extension in any case; nullptr if it is unknown.
const Format* format_of_file(const std::filesystem::path& path);
/// By the first bytes, decompressed.
const Format& format_of_stream(const std::filesystem::path& path);
/// The place in the table, which identifies the format in fingerprints.
std::size_t format_index(const Format& format);

/// For messages: ".txt, .jsonl, ..., plain or compressed (.gz, .zst)".
std::string accepted_files();

}  // namespace adept::data
