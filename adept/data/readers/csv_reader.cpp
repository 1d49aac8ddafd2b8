// CSV and TSV (RFC 4180) with a header row.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/function_ref.h"
#include "adept/core/json.h"
#include "adept/data/readers/byte_cursor.h"
#include "adept/data/readers/formats.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

constexpr std::size_t kMaxHeaderBytes = std::size_t{16} << 20;
constexpr std::size_t kMaxColumns = 100'000;

/// One row after the other.
class CsvParser {
 public:
  CsvParser(const std::filesystem::path& path, char separator) : cursor_(path), separator_(separator) {}

  enum class Row { kGood, kBlank, kBad, kTooLong, kEnd };

  /// `target` gives the string that receives a column, or nullptr for a column that is not wanted.
  Row next(FunctionRef<std::string*(std::size_t)> target, std::size_t max_bytes) {
    if (cursor_.peek() < 0) return Row::kEnd;
    line_ = cursor_.line() + num_returns_;
    num_columns_ = 0;
    row_bytes_ = 0;
    max_bytes_ = max_bytes;
    fault_.clear();
    bool quoted_first = false;
    for (bool more = true; more;) {
      target_ = target(num_columns_++);
      const bool quoted = cursor_.peek() == '"';
      quoted_first = quoted_first || (quoted && num_columns_ == 1);
      if (quoted) read_quoted();
      more = read_unquoted(quoted);
    }
    if (row_end_ == '\0') row_end_ = '\n';
    if (row_bytes_ > max_bytes_) return Row::kTooLong;
    if (!fault_.empty()) return Row::kBad;
    return num_columns_ == 1 && row_bytes_ == 0 && !quoted_first ? Row::kBlank : Row::kGood;
  }

  std::size_t num_columns() const { return num_columns_; }
  /// What is wrong with a row that is kBad.
  const std::string& fault() const { return fault_; }
  /// Where the last row starts.
  std::int64_t line() const { return line_; }
  const ByteCursor& cursor() const { return cursor_; }

 private:
  void append(std::string_view text) {
    row_bytes_ += text.size();
    if (target_ == nullptr) return;
    if (row_bytes_ > max_bytes_)
      clear_or_release(*target_);
    else
      target_->append(text);
  }

  // Adds a text in quotes. Its lines count in positions.
  void append_quoted(std::string_view text) {
    if (row_end_ == '\r') num_returns_ += std::ranges::count(text, '\r');
    append(text);
  }

  // Up to the closing quote; two quotes stand for one.
  void read_quoted() {
    cursor_.consume(1);
    for (;;) {
      const std::string_view next = cursor_.available();
      if (next.empty()) {
        fault_ = fmt::format("a quote that is not closed, in column {}", num_columns_);
        return;
      }
      const std::size_t end = next.find('"');
      append_quoted(next.substr(0, end));
      cursor_.consume(end == std::string_view::npos ? next.size() : end + 1);
      if (end == std::string_view::npos) continue;
      if (cursor_.peek() != '"') return;
      append("\"");
      cursor_.consume(1);
    }
  }

  // Up to the next separator (true) or the end of the row. Nothing may stand between a closing quote and these.
  bool read_unquoted(bool after_quote) {
    const char stops[] = {separator_, '\n', '\r'};
    for (;;) {
      const std::string_view next = cursor_.available();
      if (next.empty()) return false;
      const std::size_t end = std::min(next.size(), next.find_first_of(stops, 0, std::size(stops)));
      add_rest(next.substr(0, end), after_quote);
      const char stop = end < next.size() ? next[end] : '\0';
      cursor_.consume(end + (end < next.size() ? 1 : 0));
      if (stop == separator_) return true;
      if (stop == '\n' || (stop == '\r' && ends_row_with_return())) return false;
      if (stop == '\r') add_rest("\r", after_quote);
    }
  }

  // After a '\r': whether it ends the row. Alone, it does so in a file whose first row ends like this.
  bool ends_row_with_return() {
    if (cursor_.peek() == '\n') {
      cursor_.consume(1);
      return true;
    }
    if (row_end_ == '\0') row_end_ = '\r';
    num_returns_ += row_end_ == '\r' ? 1 : 0;
    return row_end_ == '\r';
  }

  void add_rest(std::string_view text, bool after_quote) {
    if (after_quote && !text.empty())
      fault_ = fmt::format("text after the closing quote of column {}", num_columns_);
    else
      append(text);
  }

  ByteCursor cursor_;
  char separator_;
  std::string* target_ = nullptr;
  std::size_t num_columns_ = 0;
  std::size_t row_bytes_ = 0;
  std::size_t max_bytes_ = 0;
  std::string fault_;
  std::int64_t line_ = 1;
  char row_end_ = '\0';           // besides "\r\n"; of the first row, which decides
  std::int64_t num_returns_ = 0;  // each '\r' alone that ended a line
};

class CsvReader final : public Reader {
 public:
  CsvReader(const ReaderOptions& options, char separator) : parser_(options.path, separator), wanted_(options.wanted) {}

  ReadResult next(Record& record, Fault& fault) override {
    if (header_size_ == 0) read_header();
    record.reset(wanted_);
    if (is_fallback_) record.fallback.resize(wanted_.fallback.size());
    std::vector<Field>& fields = is_fallback_ ? record.fallback : record.fields;
    const auto target = [&](std::size_t column) -> std::string* {
      const std::size_t field = column < field_of_.size() ? field_of_[column] : kUnwanted;
      return field == kUnwanted ? nullptr : &fields[field].text;
    };
    switch (parser_.next(target, kMaxRecordBytes)) {
      case CsvParser::Row::kGood:
        return accept(record, fields, fault);
      case CsvParser::Row::kBlank:
        return ReadResult::kBlank;
      case CsvParser::Row::kBad:
        fault = {"invalid CSV", parser_.fault(), "a field in quotes, with each quote in it doubled"};
        return ReadResult::kBad;
      case CsvParser::Row::kTooLong:
        fault = {"record too long", fmt::format("a row of more than {} bytes", kMaxRecordBytes), "shorter rows"};
        return ReadResult::kBad;
      case CsvParser::Row::kEnd:
        break;
    }
    return ReadResult::kEnd;
  }

  std::string position() const override {
    return fmt::format("{}:{}", parser_.cursor().path().string(), parser_.line());
  }
  std::int64_t file_position() const override { return parser_.cursor().file_position(); }

 private:
  static constexpr std::size_t kUnwanted = static_cast<std::size_t>(-1);

  ReadResult accept(Record& record, std::vector<Field>& fields, Fault& fault) {
    if (parser_.num_columns() != header_size_) {
      fault = {"ragged row", fmt::format("{} fields", parser_.num_columns()),
               fmt::format("{} fields, as the header has", header_size_)};
      return ReadResult::kBad;
    }
    if (!repeated_.empty()) {
      fault = {"repeated field", repeated_, "one column of each name"};
      return ReadResult::kBad;
    }
    const std::vector<WantedField>& wanted = is_fallback_ ? wanted_.fallback : wanted_.fields;
    for (const std::size_t field : field_of_) {
      if (field == kUnwanted) continue;
      if (!check_utf8(fields[field].text, fault)) return ReadResult::kBad;
      fields[field].state = Field::State::kValue;
      if (wanted[field].form == WantedField::Form::kJson) fields[field].text = Json(fields[field].text).dump();
    }
    record.keys = keys_;
    return ReadResult::kRecord;
  }

  void read_header() {
    std::vector<std::string> names;
    const auto target = [&](std::size_t column) { return column < kMaxColumns ? &names.emplace_back() : nullptr; };
    const CsvParser::Row row = parser_.next(target, kMaxHeaderBytes);
    std::string found;
    if (row == CsvParser::Row::kEnd || row == CsvParser::Row::kBlank) found = "an empty line";
    if (row == CsvParser::Row::kBad) found = parser_.fault();
    if (row == CsvParser::Row::kTooLong || parser_.num_columns() > kMaxColumns) found = "a row that is too long";
    Fault fault;
    for (const std::string& name : names)
      if (found.empty() && !check_utf8(name, fault)) found = fault.found;
    if (!found.empty())
      throw DataError("{}:1: found {}; expected a header row with the names of the columns.",
                      parser_.cursor().path().string(), found);
    header_size_ = names.size();
    KeyList keys("columns");
    for (const std::string& name : names) keys.add(name);
    keys_ = keys.text();
    is_fallback_ = !has_all(names, wanted_.fields) && !wanted_.fallback.empty();
    map_columns(names, is_fallback_ ? wanted_.fallback : wanted_.fields);
  }

  static bool has_all(const std::vector<std::string>& names, const std::vector<WantedField>& fields) {
    return std::all_of(fields.begin(), fields.end(), [&](const WantedField& field) {
      return std::find(names.begin(), names.end(), field.path) != names.end();
    });
  }

  void map_columns(const std::vector<std::string>& names, const std::vector<WantedField>& fields) {
    field_of_.assign(names.size(), kUnwanted);
    for (std::size_t field = 0; field < fields.size(); ++field) {
      std::int64_t times = 0;
      for (std::size_t column = 0; column < names.size(); ++column)
        if (names[column] == fields[field].path && ++times == 1) field_of_[column] = field;
      if (times > 1) repeated_ = fmt::format("the column {} {} times", io::quote(fields[field].path), times);
    }
  }

  CsvParser parser_;
  WantedFields wanted_;
  std::size_t header_size_ = 0;
  std::vector<std::size_t> field_of_;  // each column
  bool is_fallback_ = false;           // the columns are those of wanted_.fallback
  std::string keys_;                   // the names of the columns, for messages
  std::string repeated_;               // a wanted column that occurs twice
};

}  // namespace

std::unique_ptr<Reader> make_csv_reader(const ReaderOptions& options) {
  return std::make_unique<CsvReader>(options, ',');
}
std::unique_ptr<Reader> make_tsv_reader(const ReaderOptions& options) {
  return std::make_unique<CsvReader>(options, '\t');
}

}  // namespace adept::data
