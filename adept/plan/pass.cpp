#include "adept/plan/pass.h"

#include <ATen/ops/ones_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <utility>

#include "adept/nn/allocator.h"
#include "adept/nn/kernels.h"

namespace adept::plan {
namespace {

constexpr int kRepeats = 4;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::int64_t bytes_in_use() { return nn::tensor_memory().in_use - nn::thread_workspace_bytes(); }

}  // namespace

Pass run_pass(FunctionRef<at::Tensor()> forward, train::Trainable* trainable) {
  Pass pass;
  const std::int64_t before = bytes_in_use();
  nn::reset_peak_tensor_memory();
  const double start = now();
  at::Tensor result = forward();
  pass.forward_peak = static_cast<double>(nn::tensor_memory().peak - before);
  pass.kept = static_cast<double>(bytes_in_use() - before);
  if (result.requires_grad()) {
    nn::reset_peak_tensor_memory();
    const at::Tensor gradient = at::ones_like(result);
    torch::autograd::backward({std::move(result)}, {gradient});
    pass.backward_peak = static_cast<double>(nn::tensor_memory().peak - before);
  }
  pass.seconds = now() - start;
  if (trainable != nullptr) {
    trainable->collect_gradients();
    trainable->drop_gradients();
  }
  return pass;
}

Pass best_of(bool is_timed, FunctionRef<Pass()> run) {
  run();
  Pass best = run();
  for (int i = 1; is_timed && i < kRepeats; ++i) best.seconds = std::min(best.seconds, run().seconds);
  return best;
}

double best_seconds(FunctionRef<void()> run) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRepeats + 1; ++i) {
    const double start = now();
    run();
    best = std::min(best, now() - start);
  }
  return best;
}

}  // namespace adept::plan
