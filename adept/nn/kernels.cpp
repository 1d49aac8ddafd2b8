#include "adept/nn/kernels.h"

#include <ATen/ops/empty.h>

#include <atomic>

namespace adept::nn {
namespace {
std::atomic<Kernels> chosen = Kernels::kFused;
}

void set_kernels(Kernels kernels) { chosen = kernels; }
Kernels active_kernels() { return chosen; }

namespace {

std::atomic<std::int64_t> workspace_bytes = 0;

struct Workspace {
  at::Tensor memory;

  void reset() {
    if (memory.defined()) workspace_bytes -= static_cast<std::int64_t>(memory.nbytes());
    memory.reset();
  }
  ~Workspace() { reset(); }
};

}  // namespace

float* thread_workspace(std::int64_t floats) {
  thread_local Workspace workspace;
  at::Tensor& memory = workspace.memory;
  if (!memory.defined() || memory.numel() < floats) {
    workspace.reset();
    memory = at::empty({floats}, at::kFloat);
    workspace_bytes += static_cast<std::int64_t>(memory.nbytes());
  }
  return memory.data_ptr<float>();
}

std::int64_t thread_workspace_bytes() { return workspace_bytes; }

}  // namespace adept::nn
