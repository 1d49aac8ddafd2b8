#include "adept/nn/allocator.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/AllocatorConfig.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "tests/support/environment.h"

namespace adept::nn {
namespace {

constexpr std::int64_t kMega = std::int64_t{1} << 20;

at::Tensor megabytes(std::int64_t count) { return at::empty({count * kMega / 4}, at::kFloat); }

/// Without tensors on the way, which would take part in what is tested.
bool all_are(const at::Tensor& t, float value) {
  const auto* begin = t.const_data_ptr<float>();
  return std::all_of(begin, begin + t.numel(), [=](float x) { return x == value; });
}

TEST(ExpandableSegments, AreUsedUnlessTheUserSetsTheAllocator) {
  using Config = c10::CachingAllocator::AcceleratorAllocatorConfig;
  const test::ScopedVariable general("PYTORCH_ALLOC_CONF"), of_cuda("PYTORCH_CUDA_ALLOC_CONF");
  ASSERT_FALSE(Config::use_expandable_segments());
  for (const test::ScopedVariable* variable : {&general, &of_cuda}) {
    variable->set("max_split_size_mb:512");
    use_expandable_segments();
    EXPECT_FALSE(Config::use_expandable_segments());
    variable->set(std::nullopt);
  }
  use_expandable_segments();
  EXPECT_TRUE(Config::use_expandable_segments());
  c10::CachingAllocator::setAllocatorSettings("expandable_segments:False");
}

TEST(CachingAllocator, HandsOutABlockAgainAndGivesItBackWhenTold) {
  use_caching_allocator();
  release_cached_memory();
  const TensorMemory before = tensor_memory();
  EXPECT_EQ(before.cached, 0);
  at::Tensor a = megabytes(5);
  const void* where = a.data_ptr();
  EXPECT_EQ(tensor_memory().in_use, before.in_use + 5 * kMega);
  a.reset();
  EXPECT_EQ(tensor_memory().in_use, before.in_use);
  EXPECT_EQ(tensor_memory().cached, 5 * kMega);
  a = megabytes(5);
  EXPECT_EQ(a.data_ptr(), where);
  EXPECT_EQ(tensor_memory().cached, 0);
  a.reset();
  release_cached_memory();
  EXPECT_EQ(tensor_memory().cached, 0);
}

TEST(CachingAllocator, NeverKeepsMoreThanWasInUseAtOnce) {
  use_caching_allocator();
  release_cached_memory();
  reset_peak_tensor_memory();
  for (std::int64_t round = 0; round < 20; ++round) {
    std::vector<at::Tensor> tensors;
    for (std::int64_t i = 0; i < 10; ++i) tensors.push_back(megabytes(2 + (7 * round + i) % 13));
    tensors.resize(static_cast<std::size_t>(round % 10));
    const TensorMemory memory = tensor_memory();
    EXPECT_LE(memory.in_use + memory.cached, memory.peak);
  }
}

TEST(CachingAllocator, ServesOtherSizesFromTheSameMemory) {
  use_caching_allocator();
  release_cached_memory();
  const at::Tensor lasting = megabytes(4).fill_(1);
  megabytes(36).fill_(1);
  for (int round = 0; round < 3; ++round)
    for (const std::vector<std::int64_t>& sizes :
         {std::vector<std::int64_t>{12, 12, 12}, {5, 5, 2, 2, 5, 5, 2}, {36}, {30, 1, 1, 4}}) {
      std::vector<at::Tensor> tensors;
      for (const std::int64_t size : sizes) {
        tensors.push_back(megabytes(size));
        EXPECT_TRUE(all_are(tensors.back(), 1)) << size << ": what is mapped anew is zero";
      }
      for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].fill_(static_cast<double>(i));
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        EXPECT_TRUE(all_are(tensors[i], static_cast<float>(i))) << "memory of two tensors";
        tensors[i].fill_(1);
      }
    }
  EXPECT_TRUE(all_are(lasting, 1));
}

TEST(CachingAllocator, ForgetsWhatWasNeededBeforeItGaveAllBack) {
  use_caching_allocator();
  megabytes(100);
  release_cached_memory();
  for (int i = 0; i < 3; ++i) megabytes(10 + i);  // none fits into the one before
  EXPECT_EQ(tensor_memory().cached, 12 * kMega);
}

TEST(CachingAllocator, GivesWholeMemoryOfItsOwnToEveryThread) {
  use_caching_allocator();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      for (int round = 0; round < 50; ++round) {
        const at::Tensor a = at::full({kMega}, t, at::kInt), small = at::full({7}, t, at::kInt);
        EXPECT_EQ(a.eq(t).sum().item<std::int64_t>(), kMega);
        EXPECT_EQ(small.eq(t).sum().item<std::int64_t>(), 7);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(at::zeros({3 * kMega}, at::kInt).ne(0).sum().item<std::int64_t>(), 0) << "memory that was used before";
}

}  // namespace
}  // namespace adept::nn
