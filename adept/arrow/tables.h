// Parquet and Arrow IPC files as tables that are read in slices: of a row group a few rows at a time, of a record batch
// (which is read as a whole) one batch at a time. Only the selected columns are read.
#pragma once

#include <arrow/api.h>
#include <arrow/io/file.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "adept/arrow/columns.h"

namespace adept::data {

/// A part of a file: a row group, or a record batch.
struct Part {
  std::shared_ptr<arrow::RecordBatch> rows;  ///< nullptr: no wanted column exists, and only the rows count
  std::int64_t num_rows = 0;
  std::int64_t index = 0;      ///< of the row group or record batch
  std::int64_t first_row = 0;  ///< in it
};

/// Its functions throw std::exception for a damaged file.
class Table {
 public:
  virtual ~Table() = default;
  virtual const arrow::Schema& schema() const = 0;
  /// Selects what next() reads.
  virtual void select(const std::vector<ColumnPath>& columns) = 0;
  /// The next slice; false at the end.
  virtual bool next(Part& part) = 0;
  virtual std::int64_t position() const = 0;
};

std::unique_ptr<Table> open_parquet(std::shared_ptr<arrow::io::RandomAccessFile> file);
/// An IPC file, or a stream.
std::unique_ptr<Table> open_ipc(std::shared_ptr<arrow::io::RandomAccessFile> file);

/// The memory of all tables, which has a limit.
arrow::MemoryPool* memory();

}  // namespace adept::data
