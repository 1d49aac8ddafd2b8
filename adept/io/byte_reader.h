// Files as bytes, decompressed, in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include "adept/core/error.h"

namespace adept::io {

/// The bytes of a file, decompressed if it is gzip (RFC 1952) or zstd (RFC 8878); several members or frames one after
/// the other are one stream. The first bytes of the file determine its format, not its name. A file named .gz or .zst
/// that is not such data is an error, and so are xz, bzip2 and zip files. Pipes can be read too.
class ByteReader {
 public:
  /// Throws DataError if the file cannot be opened.
  explicit ByteReader(const std::filesystem::path& path);
  ~ByteReader();
  ByteReader(ByteReader&&) noexcept;
  ByteReader& operator=(ByteReader&&) noexcept;

  /// Fills a part of `buffer`; 0 at the end of the file. Throws DataError if the file cannot be read, is cut short, or
  /// is corrupt (checksums are verified), expands to more than 256 times its size, or needs a window above 128 MiB;
  /// InterruptedError after a signal.
  std::size_t read(std::span<char> buffer);
  /// Bytes read from the file so far (before decompression), for progress.
  std::int64_t file_position() const;
  const std::filesystem::path& path() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The extension of a compressed file at the end of `name` (in lower case): ".gz", ".zst" or nothing.
std::string_view compression_extension(std::string_view name);

}  // namespace adept::io
