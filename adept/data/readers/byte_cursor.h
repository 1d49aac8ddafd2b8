// The bytes of a text file, decompressed, with the number of the current line. Internal to adept::data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "adept/io/byte_reader.h"

namespace adept::data {

/// Skips a UTF-8 byte order mark. Throws DataError as io::ByteReader does, and for text in UTF-16 or UTF-32.
class ByteCursor {
 public:
  explicit ByteCursor(const std::filesystem::path& path);

  /// Some of the next bytes; empty only at the end of the file.
  std::string_view available();
  /// Moves past `count` of the available bytes.
  void consume(std::size_t count);
  /// The next byte, or -1 at the end.
  int peek();

  std::int64_t line() const { return line_; }  ///< from 1
  std::int64_t file_position() const { return reader_.file_position(); }
  const std::filesystem::path& path() const { return reader_.path(); }

 private:
  void start();

  io::ByteReader reader_;
  std::unique_ptr<char[]> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::int64_t line_ = 1;
  bool started_ = false;
};

}  // namespace adept::data
