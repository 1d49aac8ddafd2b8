// Lines of a file as results of a reader. Internal to adept::data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "adept/data/readers/reader.h"
#include "adept/io/line_reader.h"

namespace adept::data {

class LineSource {
 public:
  explicit LineSource(const std::filesystem::path& path)
      : lines_(path, static_cast<std::int64_t>(kMaxRecordBytes), io::LineEnd::kNewlineOrReturn) {}

  /// kRecord with a line, kBlank for white space, kBad for a line above the limit.
  ReadResult next(std::string& line, Fault& fault);
  std::int64_t line_number() const { return lines_.line_number(); }
  std::int64_t file_position() const { return lines_.file_position(); }
  std::string position() const;

 private:
  io::LineReader lines_;
};

}  // namespace adept::data
