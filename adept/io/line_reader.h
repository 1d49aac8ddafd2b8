// Text files as lines or as a whole, decompressed, in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "adept/core/error.h"
#include "adept/io/byte_reader.h"

namespace adept::io {

/// Throws DataError with the path if the file starts with text in UTF-16 or UTF-32.
void require_utf8_start(std::string_view start, const std::filesystem::path& path);

/// A line exceeds the reader's limit. The reader can continue with the next line.
class LineTooLongError : public DataError {
 public:
  using DataError::DataError;
};

/// What ends a line, besides "\r\n".
enum class LineEnd {
  kNewline,          ///< "\n"
  kNewlineOrReturn,  ///< "\n"; "\r" in a file that has such but no "\n" in its first 256 KiB
};

/// Lines of a text file (decompressed), without their ends (LineEnd). The last line needs no end. A UTF-8 byte
/// order mark at the start is skipped, and text in UTF-16 or UTF-32 is refused by name. All other bytes, including NUL,
/// pass unchanged and unchecked.
class LineReader {
 public:
  /// Throws DataError if the file cannot be opened.
  explicit LineReader(const std::filesystem::path& path, std::int64_t max_line_bytes = std::int64_t{256} << 20,
                      LineEnd line_end = LineEnd::kNewline);

  /// False at the end of the file. Throws LineTooLongError (with path and line number) for a line above the limit,
  /// which is not kept in memory, and DataError as ByteReader does.
  bool next(std::string& line);
  /// Number of the line that next() returned last, from 1; 0 before the first.
  std::int64_t line_number() const { return line_number_; }
  std::int64_t file_position() const { return reader_.file_position(); }
  const std::filesystem::path& path() const { return reader_.path(); }

 private:
  bool fill();
  void start();
  void skip_rest_of_line();

  ByteReader reader_;
  std::size_t max_line_bytes_;
  LineEnd line_end_;
  char end_of_line_ = '\n';
  std::unique_ptr<char[]> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::int64_t line_number_ = 0;
  bool at_start_ = true;
  bool inside_long_line_ = false;
};

/// The text of a whole file, without a UTF-8 byte order mark. Throws DataError as LineReader does, and for a text
/// above `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes = std::int64_t{2} << 30);

}  // namespace adept::io
