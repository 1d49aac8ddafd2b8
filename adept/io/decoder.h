// The seam between ByteReader and the compression formats. Internal to adept::io.
//
// To add a format: a file with its Decoder, and a row in the table in byte_reader.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include "adept/core/file.h"

namespace adept::io {

/// The bytes of a file as they are on the disk, through a buffer.
class RawInput {
 public:
  /// Throws DataError if the file cannot be opened.
  explicit RawInput(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  /// What is in the buffer and not consumed.
  std::string_view available() const { return {buffer_.get() + begin_, available_}; }
  void consume(std::size_t count);
  /// Appends to the available bytes; false at the end of the file. There must be room: fewer than 256 KiB available.
  bool refill();
  /// Takes what is available, else reads from the file past the buffer; 0 at the end.
  std::size_t take(std::span<char> out);
  /// Bytes read from the file so far.
  std::int64_t position() const { return position_; }
  /// Where the available bytes start.
  std::int64_t offset() const { return position_ - static_cast<std::int64_t>(available_); }

 private:
  std::filesystem::path path_;
  UniqueFd fd_;
  std::unique_ptr<char[]> buffer_;
  std::size_t begin_ = 0;
  std::size_t available_ = 0;
  std::int64_t position_ = 0;
};

/// Decompresses one file.
class Decoder {
 public:
  virtual ~Decoder() = default;
  /// Fills a part of `out`; 0 at the end. Throws DataError if the data are cut short or corrupt, or other data follow.
  virtual std::size_t read(RawInput& input, std::span<char> out) = 0;
};

std::unique_ptr<Decoder> make_gzip_decoder();
std::unique_ptr<Decoder> make_zstd_decoder();
bool starts_gzip(std::string_view start);
bool starts_zstd(std::string_view start);

/// Messages that the formats share; `format` is its name.
[[noreturn]] void throw_cut_short(std::string_view format, const RawInput& input);
[[noreturn]] void throw_corrupt(std::string_view format, const RawInput& input, std::string_view detail);
[[noreturn]] void throw_other_data(std::string_view format, const RawInput& input);

}  // namespace adept::io
