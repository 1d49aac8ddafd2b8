// Memory of large tensors on the CPU: it is kept and handed out again, whole, in pieces or joined, instead of going
// back to the system.
//
// A pass over a model asks for the same sizes again and again. From malloc these either leave holes, as they are below
// its largest threshold, or are mapped, zeroed and unmapped each time.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace adept::nn {

/// Makes tensors of the CPU use it, for the rest of the process; a second call does nothing. The memory of those of 1
/// MiB and more is kept; with what is kept they never take more than they have needed at once since
/// release_cached_memory().
void use_caching_allocator();

/// Makes the memory of GPUs grow in segments, of which less is lost between tensors of different sizes: call before the
/// first of them is made. The variables PYTORCH_ALLOC_CONF and PYTORCH_CUDA_ALLOC_CONF take precedence.
void use_expandable_segments();

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
