// Plain or gzipped files as bytes or lines, in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "adept/core/error.h"

namespace adept::io {

/// The bytes of a file, decompressed if it is gzip (RFC 1952; several members one after the other are one stream). The
/// first bytes of the file determine its format, not its name. A file named .gz that is not gzip is an error, and so
/// are zstd, xz and bzip2 files. Pipes can be read too.
class ByteReader {
 public:
  /// Throws DataError if the file cannot be opened.
  explicit ByteReader(const std::filesystem::path& path);
  ~ByteReader();
  ByteReader(ByteReader&&) noexcept;
  ByteReader& operator=(ByteReader&&) noexcept;

  /// Fills a part of `buffer`; 0 at the end of the file. Throws DataError if the file cannot be read, is cut short, or
  /// is corrupt (the gzip checksum and length are verified), or inflates to more than 256 times its size;
  /// InterruptedError after a signal.
  std::size_t read(std::span<char> buffer);
  /// Bytes read from the file so far (before decompression), for progress.
  std::int64_t file_position() const;
  const std::filesystem::path& path() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A line exceeds the reader's limit. The reader can continue with the next line.
class LineTooLongError : public DataError {
 public:
  using DataError::DataError;
};

/// Lines of a plain or gzipped text file, without their ends ("\n" or "\r\n"). The last line needs no end. A UTF-8 byte
/// order mark at the start is skipped, and text in UTF-16 or UTF-32 is refused by name. All other bytes, including NUL,
/// pass unchanged and unchecked.
class LineReader {
 public:
  /// Throws DataError if the file cannot be opened.
  explicit LineReader(const std::filesystem::path& path, std::int64_t max_line_bytes = std::int64_t{256} << 20);

  /// False at the end of the file. Throws LineTooLongError (with path and line number) for a line above the limit,
  /// which is not kept in memory, and DataError as ByteReader does.
  bool next(std::string& line);
  /// Number of the line that next() returned last, from 1; 0 before the first.
  std::int64_t line_number() const { return line_number_; }
  std::int64_t file_position() const { return reader_.file_position(); }
  const std::filesystem::path& path() const { return reader_.path(); }

 private:
  bool fill();
  void skip_byte_order_mark();
  void skip_rest_of_line();

  ByteReader reader_;
  std::size_t max_line_bytes_;
  std::unique_ptr<char[]> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::int64_t line_number_ = 0;
  bool at_start_ = true;
  bool inside_long_line_ = false;
};

/// A whole plain or gzipped file, without a UTF-8 byte order mark. Throws DataError as LineReader does, and for a text
/// above `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes = std::int64_t{2} << 30);

}  // namespace adept::io
