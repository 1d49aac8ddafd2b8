// Memory of large tensors on the CPU: blocks are kept and handed out again instead of going back to the system.
//
// A training step asks for the same sizes every time. From malloc these either leave holes, as they are below its
// largest threshold, or are mapped, zeroed and unmapped each time.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace adept::nn {

/// Makes tensors of the CPU use it, for the rest of the process; a second call does nothing. Blocks of 1 MiB and more
/// are kept by size. What is kept never makes the whole larger than the tensors have been at once.
void use_caching_allocator();

/// Gives back to the system what no tensor uses.
void release_cached_memory();

/// Bytes of a device's tensors: on the CPU of those made since use_caching_allocator(), elsewhere of all.
struct TensorMemory {
  std::int64_t in_use = 0;
  std::int64_t peak = 0;    ///< most in use at once since the last reset_peak_tensor_memory
  std::int64_t cached = 0;  ///< kept for later
};
TensorMemory tensor_memory(c10::Device device = c10::kCPU);
void reset_peak_tensor_memory(c10::Device device = c10::kCPU);

}  // namespace adept::nn
