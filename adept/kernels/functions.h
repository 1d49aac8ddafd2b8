// Every kernel, of the best instruction set that the processor has. To add one: a struct of its arguments beside the
// others, a line here, its body in simd/, a line in simd/functions.cpp.
//
// Each works on a range begin .. end-1 of independent tasks, so that the caller can spread them over threads.
#pragma once

#include <cstdint>

#include "adept/kernels/attention.h"
#include "adept/kernels/attention_blocks.h"
#include "adept/kernels/matmul.h"
#include "adept/kernels/matmul_blocks.h"
#include "adept/kernels/rows.h"

namespace adept::kernels {

struct Functions {
  /// Tasks of num_tasks(); `workspace` of ForwardWorkspace::size() or BackwardWorkspace::size(), aligned to 64 bytes.
  void (*attention_forward)(const Attention&, std::int64_t begin, std::int64_t end, float* workspace);
  void (*attention_backward)(const Attention&, std::int64_t begin, std::int64_t end, float* workspace);
  /// Tasks of num_tasks(); `workspace` of MatmulWorkspace::size(), aligned to 64 bytes.
  void (*matmul)(const Matmul&, std::int64_t begin, std::int64_t end, float* workspace);
  /// Elements.
  void (*add)(const Addition&, std::int64_t begin, std::int64_t end);
  /// Blocks.
  void (*square_sums)(const SquareSums&, std::int64_t begin, std::int64_t end);
  /// Rows. `grad_weight` (D) is added to; null: not wanted.
  void (*rms_norm_forward)(const RmsNorm&, std::int64_t begin, std::int64_t end);
  void (*rms_norm_backward)(const RmsNorm&, std::int64_t begin, std::int64_t end, float* grad_weight);
  /// Sequences x positions.
  void (*rope)(const Rope&, std::int64_t begin, std::int64_t end);
  /// Elements.
  void (*gate_forward)(const Gate&, std::int64_t begin, std::int64_t end);
  void (*gate_backward)(const Gate&, std::int64_t begin, std::int64_t end);
  /// Rows.
  void (*cross_entropy)(const CrossEntropy&, std::int64_t begin, std::int64_t end);
  void (*online_softmax)(const OnlineSoftmax&, std::int64_t begin, std::int64_t end);
};

/// Those of instruction_set(). Throws ConfigError as that does.
const Functions& functions();

}  // namespace adept::kernels
