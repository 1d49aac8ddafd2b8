#include "adept/data/readers/byte_cursor.h"

#include <algorithm>

#include "adept/io/line_reader.h"

namespace adept::data {
namespace {

constexpr std::size_t kCursorBytes = std::size_t{256} << 10;

}  // namespace

ByteCursor::ByteCursor(const std::filesystem::path& path)
    : reader_(path), buffer_(std::make_unique_for_overwrite<char[]>(kCursorBytes)) {}

void ByteCursor::start() {
  constexpr std::string_view mark = "\xef\xbb\xbf";
  started_ = true;
  while (end_ < mark.size()) {  // they may come in pieces
    const std::size_t count = reader_.read({buffer_.get() + end_, kCursorBytes - end_});
    if (count == 0) break;
    end_ += count;
  }
  const std::string_view text(buffer_.get(), end_);
  io::require_utf8_start(text, path());
  if (text.starts_with(mark)) begin_ = mark.size();
}

std::string_view ByteCursor::available() {
  if (!started_) start();
  if (begin_ == end_) {
    begin_ = 0;
    end_ = reader_.read({buffer_.get(), kCursorBytes});
  }
  return {buffer_.get() + begin_, end_ - begin_};
}

void ByteCursor::consume(std::size_t count) {
  const char* first = buffer_.get() + begin_;
  line_ += std::count(first, first + count, '\n');
  begin_ += count;
}

int ByteCursor::peek() {
  const std::string_view next = available();
  return next.empty() ? -1 : static_cast<unsigned char>(next.front());
}

}  // namespace adept::data
