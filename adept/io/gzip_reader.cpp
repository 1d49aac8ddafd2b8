#include "adept/io/gzip_reader.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include "adept/core/signals.h"
#include "adept/core/text_encoding.h"
#include "adept/io/rereadable.h"

namespace adept::io {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
constexpr std::size_t kLongestMagic = 10;
constexpr std::int64_t kMostInflation = 256;  // deflate reaches 1032, text about 20
constexpr std::int64_t kFreelyInflated = std::int64_t{16} << 20;
constexpr int kGzipWindow = 15 + 16;  // zlib: the largest window, gzip wrapper only
constexpr std::string_view kGzipMagic = "\x1f\x8b";
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

// Compressed files that would otherwise look like damaged text.
std::string_view foreign_compression(std::string_view start) {
  if (start.starts_with("\x28\xb5\x2f\xfd")) return "zstd";
  if (start.starts_with(std::string_view("\xfd"
                                         "7zXZ\0",
                                         6)))
    return "xz";
  if (start.size() >= kLongestMagic && start.starts_with("BZh") && start.substr(4, 6) == "1AY&SY") return "bzip2";
  if (start.starts_with("PK\x03\x04")) return "zip";
  return "";
}

void require_utf8_start(std::string_view start, const std::filesystem::path& path) {
  if (const std::string problem = foreign_encoding_problem(start); !problem.empty())
    throw DataError("{}: {}", path.string(), problem);
}

}  // namespace

struct ByteReader::State {
  explicit State(std::filesystem::path file) : path(std::move(file)), fd(open_rereadable(path)) {
    while (available < kLongestMagic && refill()) {
    }
    const std::string_view start(input.get(), available);
    is_gzip = start.starts_with(kGzipMagic);
    if (!is_gzip && path.extension() == ".gz")
      throw DataError("{}: {}. Download or copy the file again, or correct its name.", path.string(),
                      start.empty() ? "is empty; expected gzip data"
                                    : "does not start with gzip data, although its name ends in .gz");
    if (const std::string_view other = foreign_compression(start); !other.empty())
      throw DataError("{}: is compressed with {}; expected gzip or plain text. Decompress it first.", path.string(),
                      other);
    if (is_gzip && inflateInit2(&stream, kGzipWindow) != Z_OK) throw std::bad_alloc();
  }
  ~State() {
    if (is_gzip) inflateEnd(&stream);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  // Appends to the available data; false at the end of the file.
  bool refill() {
    if (available > 0 && begin > 0) std::memmove(input.get(), input.get() + begin, available);
    begin = 0;
    const std::size_t count = read_some(fd.get(), {input.get() + available, kBufferBytes - available}, path);
    available += count;
    position += static_cast<std::int64_t>(count);
    return count > 0;
  }

  std::size_t read_plain(std::span<char> buffer) {
    if (available == 0) {
      const std::size_t count = read_some(fd.get(), buffer, path);
      position += static_cast<std::int64_t>(count);
      return count;
    }
    const std::size_t count = std::min(available, buffer.size());
    std::memcpy(buffer.data(), input.get() + begin, count);
    begin += count;
    available -= count;
    return count;
  }

  std::size_t read_gzip(std::span<char> buffer) {
    const std::size_t wanted = std::min<std::size_t>(buffer.size(), std::size_t{1} << 30);
    stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream.avail_out = static_cast<uInt>(wanted);
    while (stream.avail_out == wanted && !at_end) {
      if (between_members && !start_next_member()) break;
      if (available == 0 && !refill())
        throw DataError(
            "{}: the gzip data end too early, at byte {} of the file. The file is cut short; download or copy it "
            "again.",
            path.string(), position);
      inflate_available();
    }
    const std::size_t count = wanted - stream.avail_out;
    inflated += static_cast<std::int64_t>(count);
    if (inflated > kFreelyInflated && inflated / kMostInflation > position)
      throw DataError(
          "{}: the gzip data expand to more than {} times their size, which text never does. The file is damaged, or "
          "crafted to exhaust memory.",
          path.string(), kMostInflation);
    return count;
  }

  void inflate_available() {
    stream.next_in = reinterpret_cast<Bytef*>(input.get() + begin);
    stream.avail_in = static_cast<uInt>(available);
    const int result = inflate(&stream, Z_NO_FLUSH);
    begin += available - stream.avail_in;
    available = stream.avail_in;
    if (result == Z_STREAM_END) {
      between_members = true;
    } else if (result == Z_MEM_ERROR) {
      throw std::bad_alloc();
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      throw DataError("{}: the gzip data are corrupt near byte {} of the file ({}). Download or copy the file again.",
                      path.string(), position - static_cast<std::int64_t>(available),
                      stream.msg != nullptr ? stream.msg : "no detail");
    }
  }

  // After a member: another member, zeros up to the end (padding, as gzip(1) allows), or the end.
  bool start_next_member() {
    for (;;) {
      if (available == 0 && !refill()) break;
      if (input[begin] != '\0') {
        if (available < kGzipMagic.size()) refill();
        if (!std::string_view(input.get() + begin, available).starts_with(kGzipMagic))
          throw DataError(
              "{}: found other data after the gzip data, at byte {} of the file. The file is corrupt; download or copy "
              "it again.",
              path.string(), position - static_cast<std::int64_t>(available));
        inflateReset(&stream);
        between_members = false;
        return true;
      }
      ++begin;
      --available;
    }
    at_end = true;
    return false;
  }

  std::filesystem::path path;
  UniqueFd fd;
  std::unique_ptr<char[]> input = std::make_unique_for_overwrite<char[]>(kBufferBytes);
  std::size_t begin = 0;
  std::size_t available = 0;
  std::int64_t position = 0;
  std::int64_t inflated = 0;
  z_stream stream = {};
  bool is_gzip = false;
  bool between_members = false;
  bool at_end = false;
};

ByteReader::ByteReader(const std::filesystem::path& path) : state_(std::make_unique<State>(path)) {}
ByteReader::~ByteReader() = default;
ByteReader::ByteReader(ByteReader&&) noexcept = default;
ByteReader& ByteReader::operator=(ByteReader&&) noexcept = default;

std::size_t ByteReader::read(std::span<char> buffer) {
  if (buffer.empty()) return 0;
  throw_if_interrupted();
  return state_->is_gzip ? state_->read_gzip(buffer) : state_->read_plain(buffer);
}

std::int64_t ByteReader::file_position() const { return state_->position; }
const std::filesystem::path& ByteReader::path() const { return state_->path; }

LineReader::LineReader(const std::filesystem::path& path, std::int64_t max_line_bytes)
    : reader_(path),
      max_line_bytes_(static_cast<std::size_t>(max_line_bytes)),
      buffer_(std::make_unique_for_overwrite<char[]>(kBufferBytes)) {
  ADEPT_CHECK(max_line_bytes > 0, "max_line_bytes is {}", max_line_bytes);
}

bool LineReader::fill() {
  begin_ = 0;
  end_ = reader_.read({buffer_.get(), kBufferBytes});
  return end_ > 0;
}

void LineReader::skip_byte_order_mark() {
  at_start_ = false;
  // The first bytes may come in pieces (a pipe, a gzip block).
  while (end_ < kByteOrderMark.size()) {
    const std::size_t count = reader_.read({buffer_.get() + end_, kBufferBytes - end_});
    if (count == 0) break;
    end_ += count;
  }
  require_utf8_start({buffer_.get(), end_}, path());
  if (std::string_view(buffer_.get(), end_).starts_with(kByteOrderMark)) begin_ = kByteOrderMark.size();
}

void LineReader::skip_rest_of_line() {
  while (begin_ < end_ || fill()) {
    const void* newline = std::memchr(buffer_.get() + begin_, '\n', end_ - begin_);
    if (newline == nullptr) {
      begin_ = end_;
      continue;
    }
    begin_ = static_cast<std::size_t>(static_cast<const char*>(newline) - buffer_.get()) + 1;
    break;
  }
  inside_long_line_ = false;
}

bool LineReader::next(std::string& line) {
  line.clear();
  if (at_start_) skip_byte_order_mark();
  if (inside_long_line_) skip_rest_of_line();
  if (begin_ == end_ && !fill()) return false;
  ++line_number_;
  do {
    const char* start = buffer_.get() + begin_;
    const void* found = std::memchr(start, '\n', end_ - begin_);
    const std::size_t count =
        found == nullptr ? end_ - begin_ : static_cast<std::size_t>(static_cast<const char*>(found) - start);
    const bool ends_with_cr = found != nullptr && (count > 0 ? start[count - 1] == '\r' : line.ends_with('\r'));
    // A '\r' that may be part of the line end does not count toward the limit.
    const bool may_end_with_cr = ends_with_cr || (found == nullptr && count > 0 && start[count - 1] == '\r');
    if (line.size() + count - (may_end_with_cr ? 1 : 0) > max_line_bytes_) {
      line.clear();
      line.shrink_to_fit();
      inside_long_line_ = true;
      throw LineTooLongError("{}:{}: the line is longer than {} bytes; split it, or raise the limit.", path().string(),
                             line_number_, max_line_bytes_);
    }
    line.append(start, count);
    begin_ += count;
    if (found != nullptr) {
      ++begin_;
      if (ends_with_cr) line.pop_back();
      return true;
    }
  } while (fill());
  return true;
}

std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  ByteReader reader(path);
  const auto limit = static_cast<std::size_t>(max_bytes);
  std::string text;
  // Avoids copying a large text as it grows; untouched pages take no memory.
  std::error_code error;
  if (const auto size = std::filesystem::file_size(path, error); !error && size <= limit) text.reserve(size + 1);
  std::vector<char> buffer(kBufferBytes);
  while (const std::size_t count = reader.read(buffer)) {
    if (text.empty()) require_utf8_start({buffer.data(), count}, path);
    if (text.size() + count > limit + kByteOrderMark.size())
      throw DataError("{}: the text is longer than {} bytes; split it, or use one record per line.", path.string(),
                      max_bytes);
    text.append(buffer.data(), count);
  }
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  if (text.size() > limit)
    throw DataError("{}: the text is longer than {} bytes; split it, or use one record per line.", path.string(),
                    max_bytes);
  return text;
}

}  // namespace adept::io
