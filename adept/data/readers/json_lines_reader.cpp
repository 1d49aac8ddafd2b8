// JSON lines: one object per line.
#include "adept/data/readers/formats.h"
#include "adept/data/readers/json_record.h"
#include "adept/data/readers/line_source.h"

namespace adept::data {
namespace {

class JsonLinesReader final : public Reader {
 public:
  explicit JsonLinesReader(const ReaderOptions& options) : lines_(options.path), wanted_(options.wanted) {}

  ReadResult next(Record& record, Fault& fault) override {
    clear_or_release(line_);
    const ReadResult found = lines_.next(line_, fault);
    if (found != ReadResult::kRecord) return found;
    const bool good = check_utf8(line_, fault) && read_json_record(line_, wanted_, record, fault);
    if (!good && fault.expected.empty()) fault.expected = "one JSON object per line";
    clear_or_release(line_);
    return good ? ReadResult::kRecord : ReadResult::kBad;
  }
  std::string position() const override { return lines_.position(); }
  std::int64_t file_position() const override { return lines_.file_position(); }

 private:
  LineSource lines_;
  WantedFields wanted_;
  std::string line_;
};

}  // namespace

std::unique_ptr<Reader> make_json_lines_reader(const ReaderOptions& options) {
  return std::make_unique<JsonLinesReader>(options);
}

}  // namespace adept::data
