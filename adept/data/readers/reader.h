// The seam between formats of files and what becomes of their records.
//
// A reader yields the records of one file: the values of the fields that are wanted, and where they are. What a record
// becomes (record_text.h) and what happens to bad records (DocumentReader) is above the seam, decompression
// (io::ByteReader) below. To add a format: a file with its Reader, and a row in the table in formats.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "adept/data/options.h"

namespace adept::data {

/// Limits of a record, in bytes.
inline constexpr std::size_t kMaxRecordBytes = std::size_t{256} << 20;
inline constexpr std::size_t kMaxJsonValueBytes = std::size_t{8} << 20;  ///< of a value as JSON, which is parsed later

/// A value of each record that is wanted.
struct WantedField {
  enum class Form {
    kString,  ///< the text of a string; other types are errors
    kScalar,  ///< the same, or a number or boolean as JSON writes it
    kJson,    ///< any value, as JSON
  };
  std::string path;  ///< "text", or "meta.text" for a member of an object (or a key with a dot)
  Form form = Form::kString;

  bool operator==(const WantedField&) const = default;
};

struct WantedFields {
  std::vector<WantedField> fields{};
  std::vector<WantedField> fallback{};  ///< instead of `fields`, where one of these is missing
};

struct Field {
  enum class State { kMissing, kNull, kValue, kOtherType };
  State state = State::kMissing;
  std::string text{};  ///< of kValue; UTF-8
  std::string type{};  ///< of kOtherType, for messages: "a number"
};

struct Record {
  std::vector<Field> fields{};    ///< in the order of WantedFields::fields
  std::vector<Field> fallback{};  ///< in the order of WantedFields::fallback; empty unless one of `fields` is missing
  std::string keys{};             ///< if a field is missing, what the record has: `the keys "id", "body"`

  bool has_missing() const;
  /// Clears the values for the next record. Large buffers are released.
  void reset(const WantedFields& wanted);
};

/// Why a record has no values.
struct Fault {
  std::string reason{};    ///< used for counting: "invalid JSON", "line too long", ...
  std::string found{};     ///< for the message
  std::string expected{};  ///< for the message
};

enum class ReadResult {
  kRecord,  ///< `record` is set
  kBad,     ///< `fault` is set
  kBlank,   ///< a blank line: not a record, but counted
  kEnd,     ///< of the file
};

struct ReaderOptions {
  std::filesystem::path path;
  WantedFields wanted{};  ///< unused by formats without fields
  TxtRecord txt_record = TxtRecord::kFile;
};

class Reader {
 public:
  virtual ~Reader() = default;

  /// The next record. A file without fields has one value per record, in record.fields[0]. Values are valid UTF-8.
  /// Keeps one record in memory (a format of columns: a batch of rows). Throws DataError for a file that cannot be
  /// read, is cut short or damaged, InterruptedError after a signal.
  virtual ReadResult next(Record& record, Fault& fault) = 0;
  /// Where the last record, or its fault, is: "file:line", "file: row group 3, row 17", or "file".
  virtual std::string position() const = 0;
  /// Bytes read from the file so far, for progress.
  virtual std::int64_t file_position() const = 0;
};

/// `the keys "a", "b", ...`, for Record::keys.
class KeyList {
 public:
  /// `noun`: "keys" or "columns".
  explicit KeyList(std::string_view noun) : noun_(noun) {}
  void add(std::string_view name);
  std::string text() const;

 private:
  std::string_view noun_;
  std::string names_;
  std::int64_t count_ = 0;
};

/// Releases the memory of a large string; small ones are reused.
void clear_or_release(std::string& text);

/// True if the text is UTF-8; else sets `fault`, and `at` (unless null) to the offset of the first invalid byte.
bool check_utf8(std::string_view text, Fault& fault, std::size_t* at = nullptr);

}  // namespace adept::data
