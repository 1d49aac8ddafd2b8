#include "adept/nn/allocator.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>

namespace adept::nn {
namespace {

constexpr std::size_t kLeast = std::size_t{1} << 20;
constexpr std::size_t kGranularity = std::size_t{1} << 16;

class CachingAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    const bool large = size >= kLeast;
    if (large) size = (size + kGranularity - 1) / kGranularity * kGranularity;
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
  }

  TensorMemory memory() {
    const std::lock_guard lock(mutex_);
    return {.in_use = in_use_, .peak = peak_, .cached = cached_};
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
    const auto bytes = static_cast<std::int64_t>(size);
    if (const auto found = free_.find(size); found != free_.end()) {
      void* data = found->second;
      free_.erase(found);
      cached_ -= bytes;
      return data;
    }
    shrink_cache(std::max<std::int64_t>(0, highest_ - in_use_ - bytes));
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // As c10 says it: main knows the words.
    TORCH_CHECK(data != MAP_FAILED, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", size,
                " bytes.");
    return data;
  }

  void count(void* data, std::size_t size) {
    sizes_[data] = size;
    in_use_ += static_cast<std::int64_t>(size);
    peak_ = std::max(peak_, in_use_);
    highest_ = std::max(highest_, in_use_);
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
    free_.emplace(size, data);
    cached_ += static_cast<std::int64_t>(size);
    return true;
  }

  // The largest first: they are the fewest.
  void shrink_cache(std::int64_t most) {
    while (cached_ > most) {
      const auto largest = std::prev(free_.end());
      munmap(largest->second, largest->first);
      cached_ -= static_cast<std::int64_t>(largest->first);
      free_.erase(largest);
    }
  }

  std::mutex mutex_;
  std::unordered_map<void*, std::size_t> sizes_;  // of blocks in use
  std::multimap<std::size_t, void*> free_;
  std::int64_t in_use_ = 0, peak_ = 0, cached_ = 0;
  std::int64_t highest_ = 0;  // peak_ that is never reset
};

}  // namespace

void use_caching_allocator() { c10::SetCPUAllocator(&CachingAllocator::instance(), /*priority=*/1); }
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
