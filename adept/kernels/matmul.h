// Matrix products in fp32 arithmetic, for bf16 tensors on processors without bf16 products of their own: the arguments.
//
// Legend: M rows, N columns, K depth.
#pragma once

#include <cstdint>

#include "adept/kernels/tensors.h"

namespace adept::kernels {

/// c (M, N) = a (M, K) b (K, N) + bias (N). Strides in elements.
struct Matmul {
  std::int64_t rows = 0, columns = 0, depth = 0;  ///< M, N, K; K > 0
  const float* a = nullptr;
  std::int64_t a_row = 0, a_depth = 0;  ///< one of them is 1
  Element b_element = Element::kFloat;
  const void* b = nullptr;
  std::int64_t b_depth = 0, b_column = 0;  ///< one of them is 1
  Element c_element = Element::kFloat;
  void* c = nullptr;
  std::int64_t c_row = 0;          ///< columns are contiguous
  const void* bias = nullptr;      ///< as c's elements; null: none
  bool accumulate = false;         ///< the product is added to c
  std::int64_t row_splits = 1;     ///< the rows are divided into this many ranges,
  std::int64_t column_blocks = 1;  ///< and the columns of each into this many blocks: see num_tasks()
};

}  // namespace adept::kernels
