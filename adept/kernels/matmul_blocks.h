// Block sizes of the matrix product, and the layout of its workspace. Everything has internal linkage, because the
// files that include this are compiled for different instruction sets (CMakeLists.txt).
#pragma once

#include "adept/kernels/matmul.h"

namespace adept::kernels {
namespace {

/// Most columns of a panel of b: 4 of the widest vectors.
constexpr std::int64_t kMostPanelColumns = 64;
/// Rows of a that are multiplied with all panels of a block of b before the next rows.
constexpr std::int64_t kRowBlock = 96;
/// Most floats of a block of b. It is read once for every kRowBlock rows, so a third-level cache is fast enough. With
/// smaller blocks, the rows of a would be read (and packed, if they are not contiguous) more often.
constexpr std::int64_t kBlockFloats = 1 << 20;

constexpr std::int64_t rows_of_split(const Matmul& m) { return divide_up(m.rows, m.row_splits); }
constexpr std::int64_t columns_of_block(const Matmul& m) {
  return divide_up(divide_up(m.columns, m.column_blocks), kMostPanelColumns) * kMostPanelColumns;
}

/// Buffers of a task.
struct MatmulWorkspace {
  float* panels;  ///< a block of b, panel by panel: (depth, columns of a panel) each, padded with zeros
  float* a;       ///< (depth, kRowBlock): a block of rows of a, if its rows are not contiguous
  float* tile;    ///< of the result: (kRowBlock, kMostPanelColumns)

  /// In floats.
  static constexpr std::int64_t size(const Matmul& m) {
    return m.depth * (columns_of_block(m) + kRowBlock) + kRowBlock * kMostPanelColumns;
  }

  MatmulWorkspace(const Matmul& m, float* begin)
      : panels(begin), a(panels + m.depth * columns_of_block(m)), tile(a + m.depth * kRowBlock) {}
};

/// Number of tasks, one for each split of the rows and block of columns. They can run in any order and on any thread,
/// each with its own workspace.
constexpr std::int64_t num_tasks(const Matmul& m) { return m.row_splits * m.column_blocks; }

/// Blocks of columns of at most kBlockFloats, whatever the number of threads.
inline void cut_for_cache(Matmul& m) {
  const std::int64_t most_columns = kBlockFloats / m.depth / kMostPanelColumns * kMostPanelColumns;
  m.column_blocks = divide_up(m.columns, most_columns > kMostPanelColumns ? most_columns : kMostPanelColumns);
}

/// Splits the rows into ranges that are long enough to pack b for each, and the columns into as many more blocks as
/// keep all threads busy.
inline void cut_for_threads(Matmul& m, std::int64_t threads) {
  constexpr std::int64_t kLeastRows = 384;
  m.row_splits = m.rows / kLeastRows < threads ? m.rows / kLeastRows : threads;
  if (m.row_splits < 1) m.row_splits = 1;
  const std::int64_t wanted = divide_up(threads, m.row_splits), most = divide_up(m.columns, kMostPanelColumns);
  if (m.column_blocks < wanted) m.column_blocks = wanted < most ? wanted : most;
}

}  // namespace
}  // namespace adept::kernels
