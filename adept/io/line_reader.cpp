#include "adept/io/line_reader.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "adept/core/text_encoding.h"

namespace adept::io {
namespace {

constexpr std::size_t kLineBufferBytes = std::size_t{256} << 10;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

}  // namespace

void require_utf8_start(std::string_view start, const std::filesystem::path& path) {
  if (const std::string problem = foreign_encoding_problem(start); !problem.empty())
    throw DataError("{}: {}", path.string(), problem);
}

LineReader::LineReader(const std::filesystem::path& path, std::int64_t max_line_bytes, LineEnd line_end)
    : reader_(path),
      max_line_bytes_(static_cast<std::size_t>(max_line_bytes)),
      line_end_(line_end),
      buffer_(std::make_unique_for_overwrite<char[]>(kLineBufferBytes)) {
  ADEPT_CHECK(max_line_bytes > 0, "max_line_bytes is {}", max_line_bytes);
}

bool LineReader::fill() {
  begin_ = 0;
  end_ = reader_.read({buffer_.get(), kLineBufferBytes});
  return end_ > 0;
}

void LineReader::start() {
  at_start_ = false;
  // The first bytes may come in pieces (a pipe, a gzip block).
  const std::size_t wanted = line_end_ == LineEnd::kNewline ? kByteOrderMark.size() : kLineBufferBytes;
  while (end_ < wanted) {
    const std::size_t count = reader_.read({buffer_.get() + end_, kLineBufferBytes - end_});
    if (count == 0) break;
    end_ += count;
  }
  const std::string_view text(buffer_.get(), end_);
  require_utf8_start(text, path());
  if (text.starts_with(kByteOrderMark)) begin_ = kByteOrderMark.size();
  // A '\n' may follow the last byte of a full buffer.
  const std::size_t first_return = line_end_ == LineEnd::kNewline ? std::string_view::npos : text.find('\r');
  if (first_return < std::min(end_, kLineBufferBytes - 1) && text.find('\n') == std::string_view::npos)
    end_of_line_ = '\r';
}

void LineReader::skip_rest_of_line() {
  while (begin_ < end_ || fill()) {
    const void* newline = std::memchr(buffer_.get() + begin_, end_of_line_, end_ - begin_);
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
  if (at_start_) start();
  if (inside_long_line_) skip_rest_of_line();
  if (begin_ == end_ && !fill()) return false;
  ++line_number_;
  do {
    const char* start = buffer_.get() + begin_;
    const void* found = std::memchr(start, end_of_line_, end_ - begin_);
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
  std::vector<char> buffer(kLineBufferBytes);
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
