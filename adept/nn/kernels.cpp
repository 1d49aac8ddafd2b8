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

Workspace& workspace_of_thread() {
  thread_local Workspace workspace;
  return workspace;
}

}  // namespace

float* thread_workspace(std::int64_t floats) {
  Workspace& workspace = workspace_of_thread();
  at::Tensor& memory = workspace.memory;
  if (!memory.defined() || memory.numel() < floats) {
    workspace.reset();
    memory = at::empty({floats}, at::kFloat);
    workspace_bytes += static_cast<std::int64_t>(memory.nbytes());
  }
  return memory.data_ptr<float>();
}

void release_thread_workspaces() {
  // As many tasks as threads: one for each.
  at::parallel_for(0, at::get_num_threads(), 1, [](std::int64_t, std::int64_t) { workspace_of_thread().reset(); });
}

std::int64_t thread_workspace_bytes() { return workspace_bytes; }

}  // namespace adept::nn
