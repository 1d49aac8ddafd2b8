#include "adept/nn/allocator.h"

#include <c10/core/Allocator.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <unordered_map>
#include <utility>

namespace adept::nn {
namespace {

constexpr std::size_t kLeast = std::size_t{1} << 20;
constexpr std::size_t kGranularity = std::size_t{1} << 16;

constexpr std::size_t round_up(std::size_t size) { return (size + kGranularity - 1) / kGranularity * kGranularity; }

// Memory that no tensor uses: ranges of addresses, neighbours joined.
class FreeRanges {
 public:
  struct Range {
    std::byte* begin;
    std::size_t size;
  };

  std::size_t total() const { return total_; }

  void add(Range range) {
    total_ += range.size;
    auto next = by_address_.lower_bound(range.begin);
    if (next != by_address_.end() && next->first == range.begin + range.size) {
      range.size += next->second;
      next = erase(next);
    }
    if (next != by_address_.begin()) {
      const auto previous = std::prev(next);
      if (previous->first + previous->second == range.begin) {
        range = {previous->first, previous->second + range.size};
        erase(previous);
      }
    }
    insert(range);
  }

  /// The front of the smallest range that is large enough, so that large ones stay whole; null if there is none.
  std::byte* take(std::size_t size) {
    const auto found = by_size_.lower_bound({size, nullptr});
    return found == by_size_.end() ? nullptr : cut(*found, size).begin;
  }

  /// The front of the largest range, at most so much; there must be one.
  Range take_from_largest(std::size_t most) {
    const auto largest = *by_size_.rbegin();
    return cut(largest, std::min(most, largest.first));
  }

 private:
  using SizeAndAddress = std::pair<std::size_t, std::byte*>;

  Range cut(SizeAndAddress from, std::size_t size) {
    const auto [whole, begin] = from;
    erase(by_address_.find(begin));
    if (whole > size) insert({begin + size, whole - size});
    total_ -= size;
    return {begin, size};
  }
  void insert(Range range) {
    by_address_.emplace(range.begin, range.size);
    by_size_.emplace(range.size, range.begin);
  }
  std::map<std::byte*, std::size_t>::iterator erase(std::map<std::byte*, std::size_t>::iterator range) {
    by_size_.erase({range->second, range->first});
    return by_address_.erase(range);
  }

  std::map<std::byte*, std::size_t> by_address_;
  std::set<SizeAndAddress> by_size_;
  std::size_t total_ = 0;
};

class CachingAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    const bool large = size >= kLeast;
    if (large) size = round_up(size);
    void* data = large ? nullptr : c10::alloc_cpu(size);
    const std::lock_guard lock(mutex_);
    if (large) data = take(size);
    if (data != nullptr) count(data, size);
    return {data, data, &give_back, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, std::size_t count) const override { std::memcpy(to, from, count); }

  void release() {
    const std::lock_guard lock(mutex_);
    shrink_cache(0);
    highest_ = large_in_use_;
  }

  TensorMemory memory() {
    const std::lock_guard lock(mutex_);
    return {.in_use = in_use_, .peak = peak_, .cached = cached()};
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = in_use_;
  }

  static CachingAllocator& instance() {
    static auto* allocator = new CachingAllocator;  // tensors in static objects may outlive any order of destruction
    return *allocator;
  }

 private:
  void* take(std::size_t size) {
    if (void* data = free_.take(size)) return data;
    shrink_cache(std::max<std::int64_t>(0, highest_ - large_in_use_ - static_cast<std::int64_t>(size)));
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // As c10 says it: cli/failure.cpp knows the words.
    TORCH_CHECK(data != MAP_FAILED, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", size,
                " bytes.");
    return data;
  }

  void count(void* data, std::size_t size) {
    sizes_[data] = size;
    in_use_ += static_cast<std::int64_t>(size);
    peak_ = std::max(peak_, in_use_);
    if (size >= kLeast) large_in_use_ += static_cast<std::int64_t>(size);
    highest_ = std::max(highest_, large_in_use_);
  }

  static void give_back(void* data) {
    if (!instance().keep(data)) c10::free_cpu(data);
  }

  /// False for what is not kept.
  bool keep(void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(data);
    if (found == sizes_.end()) return false;
    const std::size_t size = found->second;
    sizes_.erase(found);
    in_use_ -= static_cast<std::int64_t>(size);
    if (size < kLeast) return false;
    large_in_use_ -= static_cast<std::int64_t>(size);
    free_.add({static_cast<std::byte*>(data), size});
    return true;
  }

  void shrink_cache(std::int64_t most) {
    while (cached() > most) {
      const FreeRanges::Range range = free_.take_from_largest(round_up(static_cast<std::size_t>(cached() - most)));
      // Where the mapping cannot be cut (vm.max_map_count) its addresses are lost, but not its memory.
      if (munmap(range.begin, range.size) != 0) madvise(range.begin, range.size, MADV_DONTNEED);
    }
  }

  std::int64_t cached() const { return static_cast<std::int64_t>(free_.total()); }

  std::mutex mutex_;
  std::unordered_map<void*, std::size_t> sizes_;  // of blocks in use
  FreeRanges free_;
  std::int64_t in_use_ = 0, peak_ = 0;
  std::int64_t large_in_use_ = 0, highest_ = 0;  // highest_: of large_in_use_ since release()
};

}  // namespace

void use_caching_allocator() { c10::SetCPUAllocator(&CachingAllocator::instance(), /*priority=*/1); }

void use_expandable_segments() {
  for (const char* variable : {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"})
    if (std::getenv(variable) != nullptr) return;
  c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
}

void release_cached_memory() { CachingAllocator::instance().release(); }

TensorMemory tensor_memory(c10::Device device) {
  if (device.is_cpu()) return CachingAllocator::instance().memory();
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.has_index() ? device.index() : 0);
  constexpr auto kAll = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto &used = stats.allocated_bytes[kAll], &reserved = stats.reserved_bytes[kAll];
  return {.in_use = used.current, .peak = used.peak, .cached = reserved.current - used.current};
}

void reset_peak_tensor_memory(c10::Device device) {
  if (device.is_cpu()) return CachingAllocator::instance().reset_peak();
  c10::getDeviceAllocator(device.type())->resetPeakStats(device.has_index() ? device.index() : 0);
}

}  // namespace adept::nn
