#include "adept/nn/kernels.h"

#include <ATen/ops/empty.h>

#include <atomic>

namespace adept::nn {
namespace {
std::atomic<Kernels> chosen = Kernels::kFused;
}

void set_kernels(Kernels kernels) { chosen = kernels; }
Kernels active_kernels() { return chosen; }

float* thread_workspace(std::int64_t floats) {
  thread_local at::Tensor memory;
  if (!memory.defined() || memory.numel() < floats) {
    memory.reset();
    memory = at::empty({floats}, at::kFloat);
  }
  return memory.data_ptr<float>();
}

}  // namespace adept::nn
