// Which implementation the operations of this folder take: the kernels of adept/kernels, or their plain references.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "adept/kernels/functions.h"
#include "adept/nn/options.h"

namespace adept::nn {

/// For the whole process, from the next operation on.
void set_kernels(Kernels kernels);
Kernels active_kernels();

/// Whether a kernel of adept/kernels can do an operation on `tensor`.
inline bool has_kernel(const at::Tensor& tensor) {
  return tensor.is_cpu() && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
}

inline kernels::Element element_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat ? kernels::Element::kFloat : kernels::Element::kBFloat16;
}

/// A tensor (B, heads, T, E) as the kernels take it; its last dimension must be contiguous.
inline kernels::Heads heads_of(const at::Tensor& t) {
  return {
      .data = t.data_ptr(), .batch_stride = t.stride(0), .head_stride = t.stride(1), .position_stride = t.stride(2)};
}
inline at::Tensor with_contiguous_rows(const at::Tensor& t) { return t.stride(-1) == 1 ? t : t.contiguous(); }

/// Memory of the calling thread, aligned to 64 bytes, that lives on from call to call: mapping fresh pages takes longer
/// than filling them.
float* thread_workspace(std::int64_t floats);
/// Gives back those of the threads that work now: a thread that is done has none.
void release_thread_workspaces();
/// Bytes of the workspaces of all threads.
std::int64_t thread_workspace_bytes();

/// work(begin, end) over 0 .. count-1 on all threads, each of which gets at least about 16 thousand elements. Profilers
/// see it as `name`.
template <typename Work>
void for_each_range(const char* name, std::int64_t count, std::int64_t elements_each, const Work& work) {
  RECORD_FUNCTION(name, std::vector<c10::IValue>());
  constexpr std::int64_t kLeastElements = 1 << 14;
  at::parallel_for(0, count, std::max<std::int64_t>(1, kLeastElements / std::max<std::int64_t>(1, elements_each)),
                   work);
}

/// work(task) for 0 .. count-1, each worth a thread, on all threads: one that is done takes the next task, as the cores
/// of a shared machine are not equally fast. The tasks must not depend on each other.
template <typename Work>
void for_each_task(const char* name, std::int64_t count, const Work& work) {
  RECORD_FUNCTION(name, std::vector<c10::IValue>());
  std::atomic<std::int64_t> next = 0;
  at::parallel_for(0, std::min<std::int64_t>(count, at::get_num_threads()), 1, [&](std::int64_t, std::int64_t) {
    for (std::int64_t task = next++; task < count; task = next++) work(task);
  });
}

}  // namespace adept::nn
