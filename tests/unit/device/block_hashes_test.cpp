// Hashes of memory on a device, of which hashes alone are copied to the host.
#include "adept/train/block_hashes.h"

#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/bit_flip.h"
#include "tests/support/stand_in_device.h"

namespace adept::train {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

constexpr std::int64_t kBlockElements = kHashedBlock / 2;  // of bf16

at::Tensor zeros_on(at::Device device, std::int64_t count) { return at::zeros({count}, at::kBFloat16).to(device); }

TEST(BlockHashes, ChangeInTheBlockOfEveryBit) {
  for (const at::Device device : {at::Device(at::kCPU), test::kStandIn})
    for (const std::int64_t count : {std::int64_t{1}, std::int64_t{3}, kBlockElements - 1, kBlockElements,
                                     kBlockElements + 1, 3 * kBlockElements + 5, 1100 * kBlockElements}) {
      SCOPED_TRACE(fmt::format("{}, {} elements", device.str(), count));
      const at::Tensor tensor = zeros_on(device, count);
      const std::vector<std::uint64_t> before = block_hashes(tensor);
      ASSERT_EQ(std::ssize(before), (count + kBlockElements - 1) / kBlockElements);
      for (const std::int64_t element : {std::int64_t{0}, count / 2, count - 1})
        for (int bit = 0; bit < 16; bit += count > 10 * kBlockElements ? 15 : 1) {
          test::flip_bit(tensor, element, bit);
          const std::vector<std::uint64_t> now = block_hashes(tensor);
          for (std::int64_t block = 0; block < std::ssize(now); ++block)
            EXPECT_EQ(now[static_cast<std::size_t>(block)] == before[static_cast<std::size_t>(block)],
                      block != element / kBlockElements)
                << "element " << element << ", bit " << bit << ", block " << block;
          test::flip_bit(tensor, element, bit);
        }
      EXPECT_EQ(block_hashes(tensor), before);
    }
}

TEST(BlockHashes, DependOnTheOrderOfElements) {
  const at::Tensor tensor = zeros_on(test::kStandIn, kBlockElements);
  test::flip_bit(tensor, 10, 3);
  const auto first = block_hashes(tensor);
  test::flip_bit(tensor, 10, 3);
  test::flip_bit(tensor, 20, 3);
  EXPECT_NE(block_hashes(tensor), first);
}

TEST(BlockHashes, AreOfPartsThatBeginAnywhere) {
  const at::Tensor tensor = zeros_on(test::kStandIn, 100);
  test::flip_bit(tensor, 50, 3);
  EXPECT_EQ(block_hashes(tensor.slice(0, 41, 61)), block_hashes(tensor.slice(0, 41, 61).clone()));
  EXPECT_NE(block_hashes(tensor.slice(0, 41, 61)), block_hashes(tensor.slice(0, 40, 60)));
}

TEST(BlockHashes, AreCopiedToTheHostTogether) {
  const at::Tensor tensor = zeros_on(test::kStandIn, 3000 * kBlockElements + 1);
  block_hashes(tensor);
  test::reset_synchronizations();
  block_hashes(tensor);
  EXPECT_THAT(test::synchronizations(), ElementsAre(Pair("copy to the device", 1), Pair("copy to the host", 1)));
  EXPECT_LE(test::calls_on_device("mul"), 4) << "many blocks at once";
}

}  // namespace
}  // namespace adept::train
