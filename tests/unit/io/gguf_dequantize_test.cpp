#include <gmock/gmock.h>

#include <bit>
#include <cmath>

#include "adept/io/gguf.h"

namespace adept::io {
namespace {

using testing::Each;

std::vector<float> values_of(GgmlType type, const std::string& data) {
  const GgmlBlock block = ggml_block(type);
  GgufTensor tensor{"t", type, {std::ssize(data) / block.bytes * block.elements}, std::as_bytes(std::span(data))};
  std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
  dequantize(tensor, values);
  return values;
}

std::string half(unsigned bits) { return {static_cast<char>(bits & 0xff), static_cast<char>(bits >> 8)}; }

constexpr unsigned kOne = 0x3c00;
constexpr unsigned kTwo = 0x4000;
constexpr unsigned kMinusHalf = 0xb800;

TEST(GgufDequantize, EveryHalfIsExact) {
  std::string all;
  for (unsigned bits = 0; bits < 0x10000; ++bits) all += half(bits);
  const std::vector<float> values = values_of(GgmlType::kF16, all);
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const auto mantissa = static_cast<double>(bits & 1023);
    double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31 && mantissa == 0) expected = INFINITY;
    if ((bits & 0x8000) != 0) expected = -expected;
    if (exponent == 31 && mantissa != 0)
      EXPECT_TRUE(std::isnan(values[bits])) << bits;
    else
      EXPECT_EQ(std::bit_cast<std::uint32_t>(values[bits]), std::bit_cast<std::uint32_t>(static_cast<float>(expected)))
          << bits;
  }
}

TEST(GgufDequantize, Bf16IsTheUpperHalfOfAFloat) {
  EXPECT_THAT(values_of(GgmlType::kBF16, half(0x3f80) + half(0xc049) + half(0x0001)),
              testing::ElementsAre(1.0f, -3.140625f, std::bit_cast<float>(0x00010000u)));
}

TEST(GgufDequantize, SmallBlocksFollowTheLayout) {
  std::string quants;
  for (int i = 0; i < 16; ++i) quants += static_cast<char>(i | (15 - i) << 4);
  const std::vector<float> q4_0 = values_of(GgmlType::kQ4_0, half(kTwo) + quants);
  const std::vector<float> q4_1 = values_of(GgmlType::kQ4_1, half(kTwo) + half(kMinusHalf) + quants);
  const std::string fifth_bits("\x01\x80\x00\xc0", 4);  // elements 0, 15, 30, 31
  const std::vector<float> q5_0 = values_of(GgmlType::kQ5_0, half(kOne) + fifth_bits + quants);
  const std::vector<float> q5_1 = values_of(GgmlType::kQ5_1, half(kOne) + half(kTwo) + fifth_bits + quants);
  for (int i = 0; i < 32; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const int low = i < 16 ? i : 31 - i;
    const int wide = low + (i == 0 || i == 15 || i >= 30 ? 16 : 0);
    EXPECT_EQ(q4_0[at], 2.0f * static_cast<float>(low - 8)) << i;
    EXPECT_EQ(q4_1[at], 2.0f * static_cast<float>(low) - 0.5f) << i;
    EXPECT_EQ(q5_0[at], static_cast<float>(wide - 16)) << i;
    EXPECT_EQ(q5_1[at], static_cast<float>(wide) + 2.0f) << i;
  }
  std::string bytes;
  for (int i = 0; i < 32; ++i) bytes += static_cast<char>(i * 8 - 128);
  const std::vector<float> q8_0 = values_of(GgmlType::kQ8_0, half(kMinusHalf) + bytes);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(q8_0[static_cast<std::size_t>(i)], -0.5f * static_cast<float>(i * 8 - 128));
}

TEST(GgufDequantize, SuperBlocksUseTheScaleOfTheirGroup) {
  // Scales 1..8 and minima 9..16 fit into four bits but the last minimum, so the upper bits are mostly 0.
  std::string scales(12, '\0');
  for (int group = 0; group < 4; ++group) {
    scales[static_cast<std::size_t>(group)] = static_cast<char>(group + 1);
    scales[static_cast<std::size_t>(group + 4)] = static_cast<char>(group + 9);
    scales[static_cast<std::size_t>(group + 8)] = static_cast<char>((group + 5) | ((group + 13) & 15) << 4);
  }
  scales[7] = static_cast<char>(scales[7] | 1 << 6);  // the fifth bit of the last minimum, 16
  const std::string quants(128, '\x53');              // 3 in the even groups, 5 in the odd ones
  const std::vector<float> q4_k = values_of(GgmlType::kQ4_K, half(kOne) + half(kTwo) + scales + quants);
  const std::string high(32, '\x80');  // the fifth bit of group 7
  const std::vector<float> q5_k = values_of(GgmlType::kQ5_K, half(kOne) + half(kTwo) + scales + high + quants);
  for (int i = 0; i < 256; ++i) {
    const int group = i / 32;
    const int quant = group % 2 == 0 ? 3 : 5;
    EXPECT_EQ(q4_k[static_cast<std::size_t>(i)], static_cast<float>((group + 1) * quant - 2 * (group + 9))) << i;
    const int wide = quant + (group == 7 ? 16 : 0);
    EXPECT_EQ(q5_k[static_cast<std::size_t>(i)], static_cast<float>((group + 1) * wide - 2 * (group + 9))) << i;
  }
  std::string q6_scales;
  for (int group = 0; group < 16; ++group) q6_scales += static_cast<char>(group - 8);
  const std::string low_bits(128, '\x21');
  const std::string high_bits(64, '\xe4');  // run r has the upper bits r
  const std::vector<float> q6_k = values_of(GgmlType::kQ6_K, low_bits + high_bits + q6_scales + half(kTwo));
  for (int i = 0; i < 256; ++i) {
    const int run = i % 128 / 32;
    const int quant = (run < 2 ? 1 : 2) + 16 * run - 32;
    EXPECT_EQ(q6_k[static_cast<std::size_t>(i)], 2.0f * static_cast<float>((i / 16 - 8) * quant)) << i;
  }
}

}  // namespace
}  // namespace adept::io
