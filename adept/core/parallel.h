// Independent tasks on several threads.
#pragma once

#include <cstdint>

#include "adept/core/function_ref.h"

namespace adept {

/// Calls task(i) for all i in 0 .. count-1, on up to `num_threads` threads of which the caller is one, in any order. If
/// the system provides fewer threads, these do all. After an exception no further task starts; it is rethrown.
void for_each_in_parallel(std::int64_t count, int num_threads, FunctionRef<void(std::int64_t)> task);

}  // namespace adept
