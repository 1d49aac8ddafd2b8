// Text files: the whole file, lines or paragraphs.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "adept/data/readers/byte_cursor.h"
#include "adept/data/readers/formats.h"
#include "adept/data/readers/line_source.h"

namespace adept::data {
namespace {

class TextReader final : public Reader {
 public:
  explicit TextReader(const ReaderOptions& options) : path_(options.path), record_(options.txt_record) {
    if (record_ != TxtRecord::kFile) lines_.emplace(path_);
  }

  ReadResult next(Record& record, Fault& fault) override {
    record.reset(kOneField);
    Field& field = record.fields.front();
    field.state = Field::State::kValue;
    switch (record_) {
      case TxtRecord::kFile:
        return next_file(field.text, fault);
      case TxtRecord::kLine:
        return next_line(field.text, fault);
      case TxtRecord::kParagraph:
        return next_paragraph(field.text, fault);
    }
    return ReadResult::kEnd;
  }
  std::string position() const override {
    return line_number_ > 0 ? fmt::format("{}:{}", path_.string(), line_number_) : path_.string();
  }
  std::int64_t file_position() const override { return lines_ ? lines_->file_position() : bytes_; }

 private:
  inline static const WantedFields kOneField = {.fields = {{.path = ""}}};

  ReadResult next_file(std::string& text, Fault& fault) {
    if (ended_) return ReadResult::kEnd;
    ended_ = true;
    ByteCursor cursor(path_);
    // Avoids copying a large text as it grows.
    std::error_code error;
    if (const auto size = std::filesystem::file_size(path_, error); !error && size <= kMaxRecordBytes)
      text.reserve(size);
    bool too_long = false;
    for (std::string_view part = cursor.available(); !part.empty(); part = cursor.available()) {
      too_long = too_long || text.size() + part.size() > kMaxRecordBytes;
      if (too_long)
        clear_or_release(text);
      else
        text += part;
      cursor.consume(part.size());
    }
    bytes_ = cursor.file_position();
    if (!too_long) return check(text, fault);
    fault = {"file too long", fmt::format("a file of more than {} bytes as one document", kMaxRecordBytes),
             "shorter files, or txt_record: line or paragraph (--txt-record), which make documents of their parts"};
    return ReadResult::kBad;
  }

  ReadResult next_line(std::string& text, Fault& fault) {
    const ReadResult found = lines_->next(text, fault);
    line_number_ = lines_->line_number();
    return found == ReadResult::kRecord ? check(text, fault) : found;
  }

  ReadResult next_paragraph(std::string& text, Fault& fault) {
    bool started = false, too_long = false;
    for (;;) {
      const ReadResult found = lines_->next(line_, fault);
      if (found == ReadResult::kEnd || (found == ReadResult::kBlank && started)) break;
      if (found == ReadResult::kBlank) continue;
      if (!started) line_number_ = lines_->line_number();
      if (started && !too_long) text += '\n';
      started = true;
      too_long = too_long || found == ReadResult::kBad || text.size() + line_.size() > kMaxRecordBytes;
      if (!too_long) text += line_;
    }
    clear_or_release(line_);
    if (!started) return ReadResult::kEnd;
    if (!too_long) return check(text, fault);
    fault = {"paragraph too long", fmt::format("a paragraph of more than {} bytes", kMaxRecordBytes),
             "shorter paragraphs, separated by blank lines"};
    return ReadResult::kBad;
  }

  ReadResult check(std::string_view text, Fault& fault) {
    std::size_t at = 0;
    if (check_utf8(text, fault, &at)) return ReadResult::kRecord;
    // In a file or a paragraph, the error may be lines below its start.
    const auto newlines = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    line_number_ = std::max<std::int64_t>(1, line_number_) + newlines;
    return ReadResult::kBad;
  }

  std::filesystem::path path_;
  TxtRecord record_;
  std::optional<LineSource> lines_;
  std::string line_;
  std::int64_t line_number_ = 0;  // where the record starts; 0 for a whole file
  std::int64_t bytes_ = 0;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<Reader> make_text_reader(const ReaderOptions& options) { return std::make_unique<TextReader>(options); }

}  // namespace adept::data
