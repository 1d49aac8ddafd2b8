#include <algorithm>
#include <optional>
#include <utility>

#include "adept/core/error.h"
#include "adept/data/json_record.h"
#include "adept/data/multiple_choice.h"
#include "adept/data/source_files.h"
#include "adept/data/text_source.h"
#include "adept/data/utf8.h"
#include "adept/io/line_reader.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kKeptLine = std::size_t{1} << 20;
constexpr std::size_t kMaxParagraphBytes = std::size_t{256} << 20;

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

}  // namespace

struct DocumentReader::State {
  explicit State(const TextSource& text_source) : source(text_source) {
    SourceFiles found = find_files(source);
    files = std::move(found.files);
    counts.ignored = std::move(found.ignored);
    for (const fs::path& path : files) total_bytes += file_bytes(path);
  }

  bool next(std::string& text) {
    for (;;) {
      if (!lines) {
        if (next_file == files.size()) return false;
        if (open_file(text)) return true;
      } else if (next_in_file(text)) {
        ++counts.documents;
        counts.bytes += static_cast<std::int64_t>(text.size());
        return true;
      }
    }
  }

  // Opens the next file; reads it if the file is one document.
  bool open_file(std::string& text) {
    file = files[next_file++];
    kind = *file_kind(file);
    line_number = 0;
    ++counts.files;
    if (kind == FileKind::kTxt && source.txt_record == TxtRecord::kFile) {
      std::string().swap(text);  // before the next is read
      text = io::read_text_file(file);
      finished_bytes += file_bytes(file);
      if (!accept(text)) return false;
      ++counts.documents;
      counts.bytes += static_cast<std::int64_t>(text.size());
      return true;
    }
    lines.emplace(file);
    return false;
  }

  // False if the record was skipped, or the file has ended and is closed.
  bool next_in_file(std::string& text) {
    if (kind == FileKind::kTxt && source.txt_record == TxtRecord::kParagraph) return next_paragraph(text);
    std::string& target = kind == FileKind::kJsonl ? line : text;
    const Line found = next_line(target);
    if (found == Line::kEnd) return false;
    line_number = lines->line_number();
    if (found == Line::kTooLong) return skip("line too long");
    if (is_blank(target)) return skip("blank line");
    return kind == FileKind::kTxt ? accept(target) : accept_json(target, text);
  }

  enum class Line { kGood, kTooLong, kEnd };

  // Closes the file at its end.
  Line next_line(std::string& target) {
    try {
      if (lines->next(target)) return Line::kGood;
    } catch (const io::LineTooLongError&) {
      if (source.on_bad_record == BadRecord::kFail) throw;
      return Line::kTooLong;
    }
    finished_bytes += file_bytes(file);
    lines.reset();
    return Line::kEnd;
  }

  bool next_paragraph(std::string& text) {
    text.clear();
    bool started = false, too_long = false;
    for (Line found = next_line(line); found != Line::kEnd; found = next_line(line)) {
      if (found == Line::kGood && is_blank(line)) {
        if (started) break;
        continue;
      }
      if (!started) line_number = lines->line_number();
      if (started && !too_long) text += '\n';
      started = true;
      too_long = too_long || found == Line::kTooLong || text.size() + line.size() > kMaxParagraphBytes;
      if (!too_long) text += line;
    }
    if (!started) return false;
    if (too_long)
      return bad("paragraph too long", fmt::format("a paragraph of more than {} bytes", kMaxParagraphBytes),
                 "shorter paragraphs, separated by blank lines");
    return accept(text);
  }

  bool accept_json(std::string_view record, std::string& text) {
    if (const auto at = find_invalid_utf8(record)) return bad_utf8(record, *at);
    RecordFault fault;
    if (read_record(record, source.text_field, text, fault)) {
      if (line.capacity() > kKeptLine) std::string().swap(line);
      return text.empty() ? skip("empty text") : true;
    }
    std::string expected =
        fmt::format("one JSON object per line, with the text as a string in {}", io::quote(source.text_field));
    if (fault.reason == "missing field") {
      MultipleChoice question = render_multiple_choice(record);
      if (!question.problem.empty())
        return bad("unreadable question", question.problem, "choices as a list or by label, and an answer among them");
      if (!question.text.empty()) {
        text = std::move(question.text);
        return true;
      }
      expected = fmt::format(
          "the text in {}. Set the field that holds it with --text-field FIELD, or with text_field of the source",
          io::quote(source.text_field));
    }
    return bad(fault.reason, fault.found, expected);
  }

  bool accept(std::string_view text) {
    if (text.empty()) return skip("empty text");
    if (const auto at = find_invalid_utf8(text)) return bad_utf8(text, *at);
    return true;
  }

  bool bad_utf8(std::string_view text, std::size_t at) {
    // In a file or a paragraph, the error may be lines below its start.
    const auto newlines = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    const std::int64_t first_line = std::max<std::int64_t>(1, line_number);
    line_number = first_line + newlines;
    return bad("invalid UTF-8",
               fmt::format("invalid UTF-8 after {}",
                           io::quote(text.substr(at > 20 ? at - 20 : 0, std::min<std::size_t>(at, 20)))),
               "UTF-8 text");
  }

  bool bad(const std::string& reason, const std::string& found, const std::string& expected) {
    if (source.on_bad_record == BadRecord::kSkip) return skip(reason);
    throw DataError(
        "{}: {}: found {}; expected {}. Fix the record, or skip and count such records: on_bad_record: skip, or "
        "--on-bad-record skip.",
        position(), reason, found, expected);
  }

  bool skip(const std::string& reason) {
    ++counts.skipped[reason];
    return false;
  }

  std::string position() const {
    return line_number > 0 ? fmt::format("{}:{}", file.string(), line_number) : file.string();
  }

  static std::int64_t file_bytes(const fs::path& path) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    return error ? 0 : static_cast<std::int64_t>(size);
  }

  TextSource source;
  std::vector<fs::path> files;
  std::size_t next_file = 0;
  fs::path file;
  FileKind kind = FileKind::kTxt;
  std::optional<io::LineReader> lines;
  std::string line;
  std::int64_t line_number = 0;  // where the record starts; 0 for a whole file
  std::int64_t finished_bytes = 0;
  std::int64_t total_bytes = 0;
  SourceCounts counts;
};

DocumentReader::DocumentReader(const TextSource& source) : state_(std::make_unique<State>(source)) {}
DocumentReader::~DocumentReader() = default;
DocumentReader::DocumentReader(DocumentReader&&) noexcept = default;
DocumentReader& DocumentReader::operator=(DocumentReader&&) noexcept = default;

bool DocumentReader::next(std::string& text) { return state_->next(text); }
const SourceCounts& DocumentReader::counts() const { return state_->counts; }
std::string DocumentReader::position() const { return state_->position(); }
std::int64_t DocumentReader::file_bytes_read() const {
  return state_->finished_bytes + (state_->lines ? state_->lines->file_position() : 0);
}
std::int64_t DocumentReader::file_bytes_total() const { return state_->total_bytes; }

}  // namespace adept::data
