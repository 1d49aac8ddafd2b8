#include "adept/data/readers/line_source.h"

#include <fmt/format.h>

namespace adept::data {

ReadResult LineSource::next(std::string& line, Fault& fault) {
  try {
    if (!lines_.next(line)) return ReadResult::kEnd;
  } catch (const io::LineTooLongError&) {
    fault = {"line too long", fmt::format("a line of more than {} bytes", kMaxRecordBytes), "shorter lines"};
    return ReadResult::kBad;
  }
  return line.find_first_not_of(" \t\r\n\v\f") == std::string::npos ? ReadResult::kBlank : ReadResult::kRecord;
}

std::string LineSource::position() const { return fmt::format("{}:{}", lines_.path().string(), lines_.line_number()); }

}  // namespace adept::data
