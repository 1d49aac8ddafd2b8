// How the matrix product cuts its work, and where things lie in its workspace. All has internal linkage, as the files
// that include this are compiled for different instruction sets (CMakeLists.txt).
#pragma once

#include "adept/kernels/matmul.h"

namespace adept::kernels {
namespace {

/// Columns of a panel of b are at most so many: 4 of the widest vectors.
constexpr std::int64_t kMostPanelColumns = 64;
/// Rows that are multiplied with all panels of a block before the next ones are.
constexpr std::int64_t kRowBlock = 96;
/// A block of b as fp32. Each of its numbers is read once for kRowBlock rows, so a third-level cache is near enough; of
/// smaller blocks the rows would be read, and where they are not contiguous packed, more often.
constexpr std::int64_t kBlockFloats = 1 << 20;

constexpr std::int64_t rows_of_split(const Matmul& m) { return divide_up(m.rows, m.row_splits); }
constexpr std::int64_t columns_of_block(const Matmul& m) {
  return divide_up(divide_up(m.columns, m.column_blocks), kMostPanelColumns) * kMostPanelColumns;
}

/// A block of b, panel by panel (K, columns of a panel), zeros where b ends; a block of rows of a, (K, rows), where a's
/// rows are not contiguous; a tile of c.
struct MatmulWorkspace {
  float *panels, *a, *tile;

  /// In floats.
  static constexpr std::int64_t size(const Matmul& m) {
    return m.depth * (columns_of_block(m) + kRowBlock) + kRowBlock * kMostPanelColumns;
  }

  MatmulWorkspace(const Matmul& m, float* begin)
      : panels(begin), a(panels + m.depth * columns_of_block(m)), tile(a + m.depth * kRowBlock) {}
};

/// The work is cut into tasks that can run in any order and on any thread, each with a workspace of its own: one for
/// each split of the rows and block of columns.
constexpr std::int64_t num_tasks(const Matmul& m) { return m.row_splits * m.column_blocks; }

/// Blocks of columns of at most kBlockFloats, whatever the number of threads.
inline void cut_for_cache(Matmul& m) {
  const std::int64_t most_columns = kBlockFloats / m.depth / kMostPanelColumns * kMostPanelColumns;
  m.column_blocks = divide_up(m.columns, most_columns > kMostPanelColumns ? most_columns : kMostPanelColumns);
}

/// Ranges of rows that are worth packing b for, and as many more blocks as keep all threads at work.
inline void cut_for_threads(Matmul& m, std::int64_t threads) {
  constexpr std::int64_t kLeastRows = 384;
  m.row_splits = m.rows / kLeastRows < threads ? m.rows / kLeastRows : threads;
  if (m.row_splits < 1) m.row_splits = 1;
  const std::int64_t wanted = divide_up(threads, m.row_splits), most = divide_up(m.columns, kMostPanelColumns);
  if (m.column_blocks < wanted) m.column_blocks = wanted < most ? wanted : most;
}

}  // namespace
}  // namespace adept::kernels
