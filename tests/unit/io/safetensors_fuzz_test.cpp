// Random damage to safetensors files: a file is read or refused, and nothing else happens.
#include <gtest/gtest.h>

#include <array>
#include <random>

#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using test::make_tensor;
using test::TemporaryDirectory;

constexpr int kTrials = 40'000;

constexpr std::array<std::string_view, 34> kTokens = {"{",
                                                      "}",
                                                      "[",
                                                      "]",
                                                      ",",
                                                      ":",
                                                      "\"",
                                                      "\\",
                                                      "\\u0000",
                                                      "\\ud83d",
                                                      "null",
                                                      "true",
                                                      "-1",
                                                      "0",
                                                      "1",
                                                      "2",
                                                      "8",
                                                      "4294967296",
                                                      "9223372036854775807",
                                                      "9223372036854775808",
                                                      "18446744073709551615",
                                                      "18446744073709551616",
                                                      "1e3",
                                                      "1.5",
                                                      "-0",
                                                      "\"dtype\"",
                                                      "\"shape\"",
                                                      "\"data_offsets\"",
                                                      "\"__metadata__\"",
                                                      "\"F32\"",
                                                      "\"F64\"",
                                                      "\"a\"",
                                                      "\xff",
                                                      " "};

std::string damage(std::string text, std::mt19937& random) {
  const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
  const std::size_t num_changes = 1 + below(4);
  for (std::size_t i = 0; i < num_changes; ++i) {
    const std::size_t at = below(text.size());
    switch (below(7)) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 2:
        text.insert(at, kTokens[below(kTokens.size())]);
        break;
      case 3:
        text.replace(at, 1 + below(3), kTokens[below(kTokens.size())]);
        break;
      case 4:
        text.erase(at, 1 + below(20));
        break;
      case 5:
        text.insert(at, text.substr(below(text.size()), below(60)));
        break;
      default: {  // another digit for a digit: offsets and shapes that are nearly right
        const std::size_t digit = text.find_first_of("0123456789", at);
        if (digit != std::string::npos) text[digit] = static_cast<char>('0' + below(10));
      }
    }
    if (text.empty()) text = "{";
  }
  return text;
}

// What the format promises of every file that is accepted; every byte is touched, for the address sanitizer.
void expect_consistent(const SafetensorsContents& contents, std::size_t file_size) {
  std::size_t total = 0;
  std::size_t sum = 0;
  const std::byte* expected = nullptr;
  for (const TensorView& tensor : contents.tensors) {
    ASSERT_EQ(tensor.data.size(), static_cast<std::size_t>(tensor.num_elements()) * dtype_size(tensor.dtype));
    if (expected != nullptr) {
      ASSERT_EQ(tensor.data.data(), expected) << "the tensors are contiguous";
    }
    expected = tensor.data.data() + tensor.data.size();
    for (const std::byte value : tensor.data) sum += static_cast<std::size_t>(value);
    total += tensor.data.size();
  }
  ASSERT_LE(total + 8, file_size);
  ASSERT_LE(sum, 255 * total);
}

TEST(SafetensorsFuzz, DamagedFilesAreReadOrRefused) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  const auto a = make_tensor("model.a", DType::kF32, {2, 3}, 1), b = make_tensor("b", DType::kBF16, {5}, 2),
             c = make_tensor("c", DType::kI64, {}, 3), d = make_tensor("d", DType::kU8, {2, 0}, 4);
  write_safetensors(path, std::vector{a.view, b.view, c.view, d.view}, {{"format", "pt"}, {"k", "v"}});
  const std::string whole = test::read(path);
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), sizeof(length));
  const std::string header = whole.substr(8, length), data = whole.substr(8 + length);

  std::mt19937 random(20240501);
  int num_read = 0, num_refused = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const std::string changed = damage(header, random);
    std::uint64_t new_length = changed.size();
    if (random() % 16 == 0) new_length = random() % (2 * changed.size());
    if (random() % 64 == 0) new_length = std::uint64_t{1} << (random() % 64);
    std::string contents(reinterpret_cast<const char*>(&new_length), sizeof(new_length));
    contents += changed + data;
    if (random() % 16 == 0) contents.resize(random() % contents.size());
    // A buffer of exactly this size, so that the sanitizer sees a read beyond it.
    const std::vector<char> bytes(contents.begin(), contents.end());
    try {
      expect_consistent(parse_safetensors(std::as_bytes(std::span(bytes)), "fuzz.safetensors"), bytes.size());
      ++num_read;
    } catch (const DataError& error) {
      ASSERT_EQ(std::string_view(error.what()).substr(0, 16), "fuzz.safetensors");
      ++num_refused;
    }
    if (HasFatalFailure()) FAIL() << "trial " << trial << ": " << contents;
  }
  // Both outcomes have to occur, or the damage is too weak or too strong to test anything.
  EXPECT_GT(num_read, kTrials / 100);
  EXPECT_GT(num_refused, kTrials / 2);
}

}  // namespace
}  // namespace adept::io
