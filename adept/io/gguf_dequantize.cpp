// Blocks of quantised elements to fp32. Layouts: ggml-common.h; values: ggml-quants.c, dequantize_row_* of
// https://github.com/ggml-org/ggml. All multi-byte fields are little-endian; d and m are fp16.
//
// This file is compiled with -ffp-contract=off: a fused multiply-add would round differently from the reference.
#include <array>
#include <bit>
#include <cstring>

#include "adept/core/error.h"
#include "adept/io/gguf.h"

namespace adept::io {
namespace {

static_assert(std::endian::native == std::endian::little, "the files are little-endian and are read in place");

using Bytes = const std::uint8_t*;

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24 is exact in fp32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  const std::uint32_t wide_exponent = exponent == 0x1f ? 0xffu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide_exponent << 23 | mantissa << 13);
}

float read_half(Bytes bytes) {
  std::uint16_t half;
  std::memcpy(&half, bytes, sizeof half);
  return half_to_float(half);
}

std::uint32_t read_u32(Bytes bytes) {
  std::uint32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

struct F32 {
  static constexpr std::int64_t kElements = 1;
  static void block(Bytes in, float* out) { std::memcpy(out, in, sizeof(float)); }
};

struct F16 {
  static constexpr std::int64_t kElements = 1;
  static void block(Bytes in, float* out) { *out = read_half(in); }
};

struct BF16 {
  static constexpr std::int64_t kElements = 1;
  static void block(Bytes in, float* out) {
    std::uint16_t high;
    std::memcpy(&high, in, sizeof high);
    *out = std::bit_cast<float>(static_cast<std::uint32_t>(high) << 16);
  }
};

// d, then 32 signed bytes.
struct Q8_0 {
  static constexpr std::int64_t kElements = 32;
  static void block(Bytes in, float* out) {
    const float d = read_half(in);
    for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(in[2 + i])) * d;
  }
};

// d, then 16 bytes: the low halves are elements 0..15, the high halves 16..31.
struct Q4_0 {
  static constexpr std::int64_t kElements = 32;
  static void block(Bytes in, float* out) {
    const float d = read_half(in);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * static_cast<float>((in[2 + i] & 0x0f) - 8);
      out[i + 16] = d * static_cast<float>((in[2 + i] >> 4) - 8);
    }
  }
};

// d, m, then as Q4_0 with values 0..15.
struct Q4_1 {
  static constexpr std::int64_t kElements = 32;
  static void block(Bytes in, float* out) {
    const float d = read_half(in);
    const float m = read_half(in + 2);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * static_cast<float>(in[4 + i] & 0x0f) + m;
      out[i + 16] = d * static_cast<float>(in[4 + i] >> 4) + m;
    }
  }
};

// d, 32 fifth bits, then the low four bits as in Q4_0.
struct Q5_0 {
  static constexpr std::int64_t kElements = 32;
  static void block(Bytes in, float* out) {
    const float d = read_half(in);
    const std::uint32_t high = read_u32(in + 2);
    for (int i = 0; i < 16; ++i) {
      const int low_element = static_cast<int>((in[6 + i] & 0x0f) | (high >> i & 1) << 4);
      const int high_element = static_cast<int>((in[6 + i] >> 4) | (high >> (i + 16) & 1) << 4);
      out[i] = d * static_cast<float>(low_element - 16);
      out[i + 16] = d * static_cast<float>(high_element - 16);
    }
  }
};

// d, m, 32 fifth bits, then the low four bits, values 0..31.
struct Q5_1 {
  static constexpr std::int64_t kElements = 32;
  static void block(Bytes in, float* out) {
    const float d = read_half(in);
    const float m = read_half(in + 2);
    const std::uint32_t high = read_u32(in + 4);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * static_cast<float>((in[8 + i] & 0x0f) | (high >> i & 1) << 4) + m;
      out[i + 16] = d * static_cast<float>((in[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) + m;
    }
  }
};

struct ScaleAndMin {
  float scale;
  float min;
};

// Eight 6-bit scales and eight 6-bit minima in 12 bytes (get_scale_min_k4).
ScaleAndMin unpack_scale(Bytes packed, int group) {
  if (group < 4) return {static_cast<float>(packed[group] & 63), static_cast<float>(packed[group + 4] & 63)};
  const int scale = (packed[group + 4] & 0x0f) | (packed[group - 4] >> 6) << 4;
  const int min = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
  return {static_cast<float>(scale), static_cast<float>(min)};
}

// d, dmin, 12 bytes of scales and minima of 8 groups of 32, then 128 bytes: each 32 of them hold two groups.
struct Q4_K {
  static constexpr std::int64_t kElements = 256;
  static void block(Bytes in, float* out) {
    const float d = read_half(in);
    const float dmin = read_half(in + 2);
    for (int group = 0; group < 8; ++group) {
      const auto [scale, min] = unpack_scale(in + 4, group);
      const float group_d = d * scale;
      const float group_min = dmin * min;
      const Bytes quants = in + 16 + group / 2 * 32;
      const int shift = group % 2 * 4;
      for (int i = 0; i < 32; ++i)
        out[group * 32 + i] = group_d * static_cast<float>(quants[i] >> shift & 0x0f) - group_min;
    }
  }
};

// As Q4_K, with 32 bytes of fifth bits before the quants: bit g of byte i is for element i of group g.
struct Q5_K {
  static constexpr std::int64_t kElements = 256;
  static void block(Bytes in, float* out) {
    const float d = read_half(in);
    const float dmin = read_half(in + 2);
    const Bytes high = in + 16;
    for (int group = 0; group < 8; ++group) {
      const auto [scale, min] = unpack_scale(in + 4, group);
      const float group_d = d * scale;
      const float group_min = dmin * min;
      const Bytes quants = in + 48 + group / 2 * 32;
      const int shift = group % 2 * 4;
      for (int i = 0; i < 32; ++i) {
        const int quant = (quants[i] >> shift & 0x0f) | (high[i] >> group & 1) << 4;
        out[group * 32 + i] = group_d * static_cast<float>(quant) - group_min;
      }
    }
  }
};

// 128 bytes of low four bits, 64 of high two bits, 16 signed scales of groups of 16, d. Each half of 128 elements is
// four runs of 32: run r has its low bits in half (r / 2) of byte 32 * (r % 2) + i, its high bits at 2 * r of byte i.
struct Q6_K {
  static constexpr std::int64_t kElements = 256;
  static void block(Bytes in, float* out) {
    const float d = read_half(in + 208);
    std::array<float, 16> group_d;
    for (std::size_t group = 0; group < group_d.size(); ++group)
      group_d[group] = d * static_cast<float>(static_cast<std::int8_t>(in[192 + group]));
    for (int half = 0; half < 2; ++half) {
      for (int run = 0; run < 4; ++run) {
        const Bytes low = in + half * 64 + run % 2 * 32;
        const Bytes high = in + 128 + half * 32;
        const int first = half * 128 + run * 32;
        for (int i = 0; i < 32; ++i) {
          const int quant = (low[i] >> (run / 2 * 4) & 0x0f) | (high[i] >> (run * 2) & 3) << 4;
          out[first + i] = group_d[static_cast<std::size_t>((first + i) / 16)] * static_cast<float>(quant - 32);
        }
      }
    }
  }
};

template <typename Type>
void dequantize_blocks(const GgufTensor& tensor, std::span<float> out) {
  const GgmlBlock block = ggml_block(tensor.type);
  ADEPT_CHECK(block.elements == Type::kElements, "{}: a block of {}", tensor.name, block.elements);
  const std::int64_t num_blocks = tensor.num_elements() / block.elements;
  ADEPT_CHECK(std::ssize(tensor.data) == num_blocks * block.bytes, "{}: {} bytes", tensor.name, tensor.data.size());
  const auto* in = reinterpret_cast<Bytes>(tensor.data.data());
  for (std::int64_t i = 0; i < num_blocks; ++i) Type::block(in + i * block.bytes, out.data() + i * Type::kElements);
}

}  // namespace

void dequantize(const GgufTensor& tensor, std::span<float> out) {
  ADEPT_CHECK(std::ssize(out) == tensor.num_elements(), "{}: room for {} of {} elements", tensor.name, out.size(),
              tensor.num_elements());
  switch (tensor.type) {
    case GgmlType::kF32:
      return dequantize_blocks<F32>(tensor, out);
    case GgmlType::kF16:
      return dequantize_blocks<F16>(tensor, out);
    case GgmlType::kBF16:
      return dequantize_blocks<BF16>(tensor, out);
    case GgmlType::kQ8_0:
      return dequantize_blocks<Q8_0>(tensor, out);
    case GgmlType::kQ4_0:
      return dequantize_blocks<Q4_0>(tensor, out);
    case GgmlType::kQ4_1:
      return dequantize_blocks<Q4_1>(tensor, out);
    case GgmlType::kQ5_0:
      return dequantize_blocks<Q5_0>(tensor, out);
    case GgmlType::kQ5_1:
      return dequantize_blocks<Q5_1>(tensor, out);
    case GgmlType::kQ4_K:
      return dequantize_blocks<Q4_K>(tensor, out);
    case GgmlType::kQ5_K:
      return dequantize_blocks<Q5_K>(tensor, out);
    case GgmlType::kQ6_K:
      return dequantize_blocks<Q6_K>(tensor, out);
  }
}

}  // namespace adept::io
