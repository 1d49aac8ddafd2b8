#include <zlib.h>

#include <algorithm>
#include <new>

#include "adept/io/decoder.h"

namespace adept::io {
namespace {

constexpr int kGzipWindow = 15 + 16;  // zlib: the largest window, gzip wrapper only
constexpr std::string_view kGzipMagic = "\x1f\x8b";
constexpr std::string_view kGzip = "gzip";

class GzipDecoder final : public Decoder {
 public:
  GzipDecoder() {
    if (inflateInit2(&stream_, kGzipWindow) != Z_OK) throw std::bad_alloc();
  }
  ~GzipDecoder() override { inflateEnd(&stream_); }
  GzipDecoder(const GzipDecoder&) = delete;
  GzipDecoder& operator=(const GzipDecoder&) = delete;

  std::size_t read(RawInput& input, std::span<char> out) override {
    const std::size_t wanted = std::min<std::size_t>(out.size(), std::size_t{1} << 30);
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(wanted);
    while (stream_.avail_out == wanted && !at_end_) {
      if (between_members_ && !start_next_member(input)) break;
      if (input.available().empty() && !input.refill()) throw_cut_short(kGzip, input);
      inflate_available(input);
    }
    return wanted - stream_.avail_out;
  }

 private:
  void inflate_available(RawInput& input) {
    const std::string_view available = input.available();
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(available.data()));
    stream_.avail_in = static_cast<uInt>(available.size());
    const int result = inflate(&stream_, Z_NO_FLUSH);
    input.consume(available.size() - stream_.avail_in);
    if (result == Z_STREAM_END)
      between_members_ = true;
    else if (result == Z_MEM_ERROR)
      throw std::bad_alloc();
    else if (result != Z_OK && result != Z_BUF_ERROR)
      throw_corrupt(kGzip, input, stream_.msg != nullptr ? stream_.msg : "no detail");
  }

  // After a member: another member, zeros up to the end (padding, as gzip(1) allows), or the end.
  bool start_next_member(RawInput& input) {
    while (!input.available().empty() || input.refill()) {
      if (input.available().front() == '\0') {
        input.consume(1);
        continue;
      }
      if (input.available().size() < kGzipMagic.size()) input.refill();
      if (!starts_gzip(input.available())) throw_other_data(kGzip, input);
      inflateReset(&stream_);
      between_members_ = false;
      return true;
    }
    at_end_ = true;
    return false;
  }

  z_stream stream_ = {};
  bool between_members_ = false;
  bool at_end_ = false;
};

}  // namespace

bool starts_gzip(std::string_view start) { return start.starts_with(kGzipMagic); }

std::unique_ptr<Decoder> make_gzip_decoder() { return std::make_unique<GzipDecoder>(); }

}  // namespace adept::io
