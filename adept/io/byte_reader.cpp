#include "adept/io/byte_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "adept/core/signals.h"
#include "adept/io/decoder.h"
#include "adept/io/rereadable.h"

namespace adept::io {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
constexpr std::size_t kLongestMagic = 10;
constexpr std::int64_t kMostInflation = 256;  // deflate reaches 1032, text about 20
constexpr std::int64_t kFreelyInflated = std::int64_t{16} << 20;

struct Compression {
  std::string_view name;
  std::string_view extension;
  bool (*starts)(std::string_view);
  std::unique_ptr<Decoder> (*make)();
};
constexpr Compression kCompressions[] = {{"gzip", ".gz", starts_gzip, make_gzip_decoder},
                                         {"zstd", ".zst", starts_zstd, make_zstd_decoder}};

// Compressed files that would otherwise look like damaged text.
std::string_view foreign_compression(std::string_view start) {
  if (start.starts_with(std::string_view("\xfd"
                                         "7zXZ\0",
                                         6)))
    return "xz";
  if (start.size() >= kLongestMagic && start.starts_with("BZh") && start.substr(4, 6) == "1AY&SY") return "bzip2";
  if (start.starts_with("PK\x03\x04")) return "zip";
  return "";
}

}  // namespace

RawInput::RawInput(std::filesystem::path path)
    : path_(std::move(path)),
      fd_(open_rereadable(path_)),
      buffer_(std::make_unique_for_overwrite<char[]>(kBufferBytes)) {}

void RawInput::consume(std::size_t count) {
  begin_ += count;
  available_ -= count;
}

bool RawInput::refill() {
  if (available_ > 0 && begin_ > 0) std::memmove(buffer_.get(), buffer_.get() + begin_, available_);
  begin_ = 0;
  const std::size_t count = read_some(fd_.get(), {buffer_.get() + available_, kBufferBytes - available_}, path_);
  available_ += count;
  position_ += static_cast<std::int64_t>(count);
  return count > 0;
}

std::size_t RawInput::take(std::span<char> out) {
  if (available_ == 0) {
    const std::size_t count = read_some(fd_.get(), out, path_);
    position_ += static_cast<std::int64_t>(count);
    return count;
  }
  const std::size_t count = std::min(available_, out.size());
  std::memcpy(out.data(), buffer_.get() + begin_, count);
  consume(count);
  return count;
}

void throw_cut_short(std::string_view format, const RawInput& input) {
  throw DataError(
      "{}: the {} data end too early, at byte {} of the file. The file is cut short; download or copy it again.",
      input.path().string(), format, input.position());
}

void throw_corrupt(std::string_view format, const RawInput& input, std::string_view detail) {
  throw DataError("{}: the {} data are corrupt near byte {} of the file ({}). Download or copy the file again.",
                  input.path().string(), format, input.offset(), detail);
}

void throw_other_data(std::string_view format, const RawInput& input) {
  throw DataError(
      "{}: found other data after the {} data, at byte {} of the file. The file is corrupt; download or copy it again.",
      input.path().string(), format, input.offset());
}

struct ByteReader::State {
  explicit State(std::filesystem::path file) : input(std::move(file)) {
    while (input.available().size() < kLongestMagic && input.refill()) {
    }
    const std::string_view start = input.available();
    const std::string path = input.path().string();
    if (const std::string_view other = foreign_compression(start); !other.empty())
      throw DataError("{}: is compressed with {}; expected gzip, zstd or plain text. Decompress it first.", path,
                      other);
    for (const Compression& known : kCompressions)
      if (known.starts(start)) compression = &known;
    const std::string_view extension = compression_extension(path);
    for (const Compression& named : kCompressions)
      if (extension == named.extension && compression == nullptr)
        throw DataError("{}: {}. Download or copy the file again, or correct its name.", path,
                        start.empty() ? fmt::format("is empty; expected {} data", named.name)
                                      : fmt::format("does not start with {0} data, although its name ends in {1}",
                                                    named.name, named.extension));
    if (compression != nullptr) decoder = compression->make();
  }

  std::size_t read(std::span<char> buffer) {
    if (!decoder) return input.take(buffer);
    const std::size_t count = decoder->read(input, buffer);
    decoded += static_cast<std::int64_t>(count);
    if (decoded > kFreelyInflated && decoded / kMostInflation > input.position())
      throw DataError(
          "{}: the {} data expand to more than {} times their size, which text never does. The file is damaged, or "
          "crafted to exhaust memory.",
          input.path().string(), compression->name, kMostInflation);
    return count;
  }

  RawInput input;
  const Compression* compression = nullptr;
  std::unique_ptr<Decoder> decoder;
  std::int64_t decoded = 0;
};

ByteReader::ByteReader(const std::filesystem::path& path) : state_(std::make_unique<State>(path)) {}
ByteReader::~ByteReader() = default;
ByteReader::ByteReader(ByteReader&&) noexcept = default;
ByteReader& ByteReader::operator=(ByteReader&&) noexcept = default;

std::size_t ByteReader::read(std::span<char> buffer) {
  if (buffer.empty()) return 0;
  throw_if_interrupted();
  return state_->read(buffer);
}

std::int64_t ByteReader::file_position() const { return state_->input.position(); }
const std::filesystem::path& ByteReader::path() const { return state_->input.path(); }

std::string_view compression_extension(std::string_view name) {
  for (const Compression& known : kCompressions)
    if (name.ends_with(known.extension)) return known.extension;
  return "";
}

}  // namespace adept::io
