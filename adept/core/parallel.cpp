#include "adept/core/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace adept {

void for_each_in_parallel(std::int64_t count, int num_threads, FunctionRef<void(std::int64_t)> task) {
  std::atomic<std::int64_t> next = 0;
  std::mutex mutex;
  std::exception_ptr error;  // the first one
  const auto work = [&] {
    try {
      for (std::int64_t i = next++; i < count; i = next++) task(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      next = count;
    }
  };
  {
    std::vector<std::jthread> threads;  // joined at the end of the block
    try {
      while (std::ssize(threads) + 1 < std::min<std::int64_t>(num_threads, count)) threads.emplace_back(work);
    } catch (const std::system_error&) {  // fewer do it
    }
    work();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace adept
