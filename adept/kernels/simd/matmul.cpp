// Legend: M rows, N columns, K depth, P columns of a panel (kPanel).
//
// As in "Anatomy of High-Performance Matrix Multiplication" (Goto, van de Geijn, 2008): a block of b is packed once
// into panels that the innermost loop reads in order, and stays in the cache while all rows go by.
#include "adept/kernels/matmul_blocks.h"
#include "adept/kernels/simd/functions.h"
#include "adept/kernels/simd/vector.h"

namespace adept::kernels::ADEPT_INSTRUCTION_SET {
namespace {

constexpr std::int64_t kDepthBlock = 8192 / kPanel;  // of a panel: 32 KB, a first-level cache
static_assert(kMostPanelColumns % kPanel == 0);

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

/// `count` columns of b, each contiguous, into a panel (K, P).
template <typename T>
void pack_columns(const T* b, std::int64_t column_stride, std::int64_t count, std::int64_t depth, float* panel) {
  for (std::int64_t n = 0; n < kPanel; n += kLanes)
    for (std::int64_t k = 0; k < depth; k += kLanes) {
      const std::int64_t left = smaller(kLanes, depth - k);
      Vector rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        rows[i] = n + i < count ? load_some(b + (n + i) * column_stride + k, left) : Vector{};
      transpose(rows);
      for (std::int64_t i = 0; i < left; ++i) store(panel + (k + i) * kPanel + n, rows[i]);
    }
}

/// `columns` of b, whose rows are contiguous, into panels: row by row, as they lie in memory.
template <typename T>
void pack_rows(const T* b, std::int64_t row_stride, std::int64_t columns, std::int64_t depth, float* panels) {
  constexpr std::int64_t kAhead = 8;  // rows; they are too far apart for the processor to guess
  for (std::int64_t k = 0; k < depth; ++k, b += row_stride, panels += kPanel) {
    if (k + kAhead < depth)
      for (std::int64_t n = 0; n < columns; n += 64 / static_cast<std::int64_t>(sizeof(T)))
        __builtin_prefetch(b + kAhead * row_stride + n);
    for (std::int64_t begin = 0; begin < columns; begin += kPanel)
      for (std::int64_t n = begin; n < begin + kPanel; n += kLanes) {
        const std::int64_t left = smaller(kLanes, columns - n);
        store(panels + begin * depth + n - begin, left > 0 ? load_some(b + n, left) : Vector{});
      }
  }
}

template <typename T>
void pack_block(const Matmul& m, std::int64_t begin, std::int64_t end, float* panels) {
  const auto* b = static_cast<const T*>(m.b);
  if (m.b_column == 1) return pack_rows(b + begin, m.b_depth, end - begin, m.depth, panels);
  for (std::int64_t n = begin; n < end; n += kPanel, panels += m.depth * kPanel)
    pack_columns(b + n * m.b_column, m.b_column, smaller(kPanel, end - n), m.depth, panels);
}

/// tile (rows, P) = a (rows, K) panel (K, P).
void multiply_blocks(std::int64_t rows, std::int64_t depth, const float* a, std::int64_t a_row, std::int64_t a_depth,
                     const float* panel, float* tile) {
  for (std::int64_t k = 0; k < depth; k += kDepthBlock) {
    const std::int64_t count = smaller(kDepthBlock, depth - k);
    const float *left = a + k * a_depth, *right = panel + k * kPanel;
    if (k == 0)
      multiply_panel<kMostVectors, false>(rows, count, left, a_row, a_depth, right, tile, kPanel);
    else
      multiply_panel<kMostVectors, true>(rows, count, left, a_row, a_depth, right, tile, kPanel);
  }
}

template <typename C>
void store_tile(const Matmul& m, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                const float* tile) {
  const auto* bias = static_cast<const C*>(m.bias);
  for (std::int64_t r = 0; r < rows; ++r) {
    C* c = static_cast<C*>(m.c) + (row + r) * m.c_row + column;
    for (std::int64_t n = 0; n < columns; n += kLanes) {
      const std::int64_t count = smaller(kLanes, columns - n);
      Vector sum = load(tile + r * kPanel + n);
      if (bias != nullptr) sum += load_some(bias + column + n, count);
      if (m.accumulate) sum += load_some(c + n, count);
      store_some(c + n, count, sum);
    }
  }
}

template <typename T, typename C>
void multiply_task(const Matmul& m, std::int64_t task, float* workspace) {
  const MatmulWorkspace w(m, workspace);
  const std::int64_t split = task / m.column_blocks, block = task % m.column_blocks;
  const std::int64_t first_row = split * rows_of_split(m), last_row = smaller(m.rows, first_row + rows_of_split(m));
  const std::int64_t first = block * columns_of_block(m), last = smaller(m.columns, first + columns_of_block(m));
  if (first_row >= last_row || first >= last) return;
  pack_block<T>(m, first, last, w.panels);
  for (std::int64_t row = first_row; row < last_row; row += kRowBlock) {
    const std::int64_t rows = smaller(kRowBlock, last_row - row);
    const float* a = m.a + row * m.a_row;
    std::int64_t a_row = m.a_row, a_depth = m.a_depth;
    if (a_depth != 1) {
      for (std::int64_t k = 0; k < m.depth; ++k)
        std::memcpy(w.a + k * kRowBlock, a + k * m.a_depth, static_cast<std::size_t>(rows) * sizeof(float));
      a = w.a, a_row = 1, a_depth = kRowBlock;
    }
    const float* panel = w.panels;
    for (std::int64_t n = first; n < last; n += kPanel, panel += m.depth * kPanel) {
      multiply_blocks(rows, m.depth, a, a_row, a_depth, panel, w.tile);
      store_tile<C>(m, row, rows, n, smaller(kPanel, last - n), w.tile);
    }
  }
}

}  // namespace

void matmul(const Matmul& m, std::int64_t begin, std::int64_t end, float* workspace) {
  for (std::int64_t task = begin; task < end; ++task) {
    if (m.b_element == Element::kFloat)
      multiply_task<float, float>(m, task, workspace);
    else if (m.c_element == Element::kFloat)
      multiply_task<std::uint16_t, float>(m, task, workspace);
    else
      multiply_task<std::uint16_t, std::uint16_t>(m, task, workspace);
  }
}

}  // namespace adept::kernels::ADEPT_INSTRUCTION_SET
