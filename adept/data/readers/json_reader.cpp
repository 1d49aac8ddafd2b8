// JSON files: an array of objects, or objects one after the other, read element by element.
#include <fmt/format.h>

#include <string>

#include "adept/core/error.h"
#include "adept/data/readers/byte_cursor.h"
#include "adept/data/readers/formats.h"
#include "adept/data/readers/json_record.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

class JsonReader final : public Reader {
 public:
  explicit JsonReader(const ReaderOptions& options) : cursor_(options.path), wanted_(options.wanted) {}

  ReadResult next(Record& record, Fault& fault) override {
    clear_or_release(element_);
    if (form_ == Form::kUnknown) start();
    if (!find_element()) return ReadResult::kEnd;
    line_ = cursor_.line();
    ++number_;
    read_element();
    if (too_long_) {
      fault = {"record too long", fmt::format("an element of more than {} bytes", kMaxRecordBytes), "shorter elements"};
      return ReadResult::kBad;
    }
    const bool good = check_utf8(element_, fault) && read_json_record(element_, wanted_, record, fault);
    if (!good && fault.expected.empty()) fault.expected = "an array of JSON objects";
    clear_or_release(element_);
    return good ? ReadResult::kRecord : ReadResult::kBad;
  }

  std::string position() const override {
    const std::string place = fmt::format("{}:{}", cursor_.path().string(), line_);
    return form_ == Form::kArray ? fmt::format("{}, element {}", place, number_) : place;
  }
  std::int64_t file_position() const override { return cursor_.file_position(); }

 private:
  enum class Form { kUnknown, kArray, kSequence, kEnded };

  [[noreturn]] void fail(const std::string& found, const std::string& expected) {
    throw DataError("{}:{}: found {}; expected {}.", cursor_.path().string(), cursor_.line(), found, expected);
  }

  int next_after_blanks() {
    int c = cursor_.peek();
    for (; c == ' ' || c == '\t' || c == '\r' || c == '\n'; c = cursor_.peek()) cursor_.consume(1);
    return c;
  }

  std::string found_next() {
    const std::string_view next = cursor_.available();
    return next.empty() ? "the end of the file" : io::quote(next.substr(0, 20));
  }

  void start() {
    const int first = next_after_blanks();
    if (first != '[' && first != '{') fail(found_next(), "an array of JSON objects, or one object after the other");
    form_ = first == '[' ? Form::kArray : Form::kSequence;
    if (form_ == Form::kArray) cursor_.consume(1);
  }

  // Moves to the next element; false after the last one.
  bool find_element() {
    if (form_ == Form::kEnded) return false;
    int c = next_after_blanks();
    if (form_ == Form::kSequence) return c >= 0;
    if (number_ > 0 && c == ',') {
      cursor_.consume(1);
      c = next_after_blanks();
      if (c == ']') fail("] after a comma", "another element");
    } else if (number_ > 0 && c >= 0 && c != ']') {
      fail(found_next(), "a comma or ] after the element");
    }
    if (c < 0)
      throw DataError(
          "{}:{}: the JSON array ends too early. The file is cut short, or brackets are missing; download or copy it "
          "again.",
          cursor_.path().string(), cursor_.line());
    if (c != ']') return true;
    cursor_.consume(1);
    if (next_after_blanks() >= 0) fail(found_next(), "nothing after the array");
    form_ = Form::kEnded;
    return false;
  }

  // Takes the text up to the comma or bracket of the array, or to the end of the object of a sequence. What it contains
  // is checked later.
  void read_element() {
    int depth = 0;
    bool in_string = false, escaped = false;
    too_long_ = false;
    for (;;) {
      const std::string_view next = cursor_.available();
      if (next.empty()) break;  // the end of the array, or of the object, is missed later
      std::size_t size = 0;
      bool ended = false;
      for (; size < next.size() && !ended; ++size) {
        if (in_string && !escaped) size = end_of_plain_text(next, size);
        if (size == next.size()) break;
        const char c = next[size];
        if (in_string) {
          in_string = escaped || c != '"';
          escaped = !escaped && c == '\\';
        } else if (c == '"') {
          in_string = true;
        } else if (c == '{' || c == '[') {
          ++depth;
        } else if (depth == 0 && form_ == Form::kArray && (c == ',' || c == ']')) {
          break;
        } else if (c == '}' || c == ']') {
          if (depth > 0) --depth;
          ended = depth == 0 && form_ == Form::kSequence;
        } else if (c == '\n' && depth == 0 && form_ == Form::kSequence) {
          ended = true;
        }
      }
      const bool stopped = ended || size < next.size();
      too_long_ = too_long_ || element_.size() + size > kMaxRecordBytes;
      if (too_long_)
        clear_or_release(element_);
      else
        element_.append(next.substr(0, size));
      cursor_.consume(size);
      if (stopped) break;
    }
  }

  ByteCursor cursor_;
  WantedFields wanted_;
  Form form_ = Form::kUnknown;
  std::string element_;
  bool too_long_ = false;
  std::int64_t line_ = 1;    // where the element starts
  std::int64_t number_ = 0;  // of the element, from 1
};

}  // namespace

std::unique_ptr<Reader> make_json_reader(const ReaderOptions& options) { return std::make_unique<JsonReader>(options); }

}  // namespace adept::data
