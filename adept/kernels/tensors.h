// How the kernels are handed tensors.
#pragma once

#include <cstdint>

namespace adept::kernels {

/// What the elements are. Arithmetic is in fp32; only instructions for pairs of bf16 numbers take the probabilities of
/// attention, and their gradients, rounded to bf16.
enum class Element { kFloat, kBFloat16 };

/// A tensor (B, heads, positions, E) whose last dimension is contiguous; strides in elements.
struct Heads {
  void* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t position_stride = 0;
};

namespace {  // as in all that is compiled for several instruction sets
constexpr std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }
}  // namespace

}  // namespace adept::kernels
