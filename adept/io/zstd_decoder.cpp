#include <zstd.h>
#include <zstd_errors.h>

#include <new>

#include "adept/core/error.h"
#include "adept/io/decoder.h"

namespace adept::io {
namespace {

constexpr std::string_view kZstd = "zstd";
constexpr int kLargestWindow = 27;  // log2 of bytes: what zstd itself accepts without --long

class ZstdDecoder final : public Decoder {
 public:
  ZstdDecoder() : stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw std::bad_alloc();
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, kLargestWindow);
  }
  ~ZstdDecoder() override { ZSTD_freeDStream(stream_); }
  ZstdDecoder(const ZstdDecoder&) = delete;
  ZstdDecoder& operator=(const ZstdDecoder&) = delete;

  // Frames follow each other, and may be skippable: the library handles both.
  std::size_t read(RawInput& input, std::span<char> out) override {
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    while (output.pos == 0) {
      // A frame that is open may hold back decoded data.
      if (input.available().empty() && !input.refill() && !in_frame_) break;
      const std::string_view available = input.available();
      ZSTD_inBuffer data = {available.data(), available.size(), 0};
      const std::size_t result = ZSTD_decompressStream(stream_, &output, &data);
      if (ZSTD_isError(result) != 0) fail(input, result);
      input.consume(data.pos);
      if (available.empty() && output.pos == 0) throw_cut_short(kZstd, input);
      in_frame_ = result != 0;
      any_frame_ = any_frame_ || !in_frame_;
    }
    return output.pos;
  }

 private:
  [[noreturn]] void fail(const RawInput& input, std::size_t result) const {
    switch (ZSTD_getErrorCode(result)) {
      case ZSTD_error_memory_allocation:
        throw std::bad_alloc();
      case ZSTD_error_frameParameter_windowTooLarge:
        throw DataError(
            "{}: the zstd data need a window of more than {} MiB, the limit. Compress the file again without --long or "
            "--ultra: zstd -d --long=31 < {} | zstd > NEW.",
            input.path().string(), (1 << kLargestWindow) >> 20, input.path().string());
      case ZSTD_error_prefix_unknown:
        if (any_frame_) throw_other_data(kZstd, input);
        [[fallthrough]];
      default:
        throw_corrupt(kZstd, input, ZSTD_getErrorName(result));
    }
  }

  ZSTD_DStream* stream_;
  bool in_frame_ = false;
  bool any_frame_ = false;  // has ended
};

}  // namespace

bool starts_zstd(std::string_view start) {
  // A frame, or a skippable frame: 0x184D2A50 to 0x184D2A5F.
  return start.starts_with("\x28\xb5\x2f\xfd") ||
         (start.size() >= 4 && (start[0] & 0xf0) == 0x50 && start.substr(1, 3) == "\x2a\x4d\x18");
}

std::unique_ptr<Decoder> make_zstd_decoder() { return std::make_unique<ZstdDecoder>(); }

}  // namespace adept::io
