#include "adept/arrow/tables.h"

#include <arrow/ipc/reader.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/schema.h>
#include <parquet/file_reader.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace adept::data {
namespace {

// A dictionary of long texts may expand to its size per row, so slices are short.
constexpr std::int64_t kMostRows = 64;
constexpr std::int64_t kSliceBytes = std::int64_t{4} << 20;
constexpr std::int64_t kMostMemory = std::int64_t{4} << 30;  // of a record batch, or a page and its dictionary
constexpr std::int64_t kStreamBuffer = std::int64_t{1} << 20;

template <typename T>
T value_of(arrow::Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return std::move(result).ValueUnsafe();
}
void require(const arrow::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

class ParquetTable final : public Table {
 public:
  explicit ParquetTable(std::shared_ptr<arrow::io::RandomAccessFile> file) : size_(value_of(file->GetSize())) {
    parquet::ReaderProperties properties(memory());
    properties.enable_buffered_stream();
    properties.set_buffer_size(kStreamBuffer);
    properties.set_page_checksum_verification(true);
    parquet::arrow::FileReaderBuilder builder;
    require(builder.Open(std::move(file), properties));
    builder.memory_pool(memory());
    parquet::ArrowReaderProperties how(/*use_threads=*/false);
    how.set_pre_buffer(false);
    builder.properties(how);
    reader_ = value_of(builder.Build());
    require(reader_->GetSchema(&schema_));
  }

  const arrow::Schema& schema() const override { return *schema_; }

  void select(const std::vector<ColumnPath>& columns) override {
    for (const ColumnPath& path : columns) {
      const parquet::arrow::SchemaField* field = &reader_->manifest().schema_fields[static_cast<std::size_t>(path[0])];
      for (std::size_t i = 1; i < path.size(); ++i) field = &field->children[static_cast<std::size_t>(path[i])];
      add_leaves(*field);
    }
    const parquet::FileMetaData& metadata = *reader_->parquet_reader()->metadata();
    std::int64_t row_bytes = 1;
    for (int group = 0; group < metadata.num_row_groups(); ++group) {
      std::int64_t bytes = 0;
      for (const int leaf : leaves_) bytes += metadata.RowGroup(group)->ColumnChunk(leaf)->total_uncompressed_size();
      row_bytes = std::max(row_bytes, bytes / std::max<std::int64_t>(1, metadata.RowGroup(group)->num_rows()));
    }
    reader_->set_batch_size(std::clamp<std::int64_t>(kSliceBytes / row_bytes, 1, kMostRows));
  }

  bool next(Part& part) override {
    const parquet::FileMetaData& metadata = *reader_->parquet_reader()->metadata();
    for (;;) {
      part.rows = nullptr;
      if (batches_) require(batches_->ReadNext(&part.rows));
      if (part.rows) {
        part = {part.rows, part.rows->num_rows(), group_, next_row_};
        next_row_ += part.num_rows;
        rows_done_ += part.num_rows;
        return true;
      }
      if (batches_ && next_row_ != metadata.RowGroup(group_)->num_rows())
        throw std::runtime_error(fmt::format("row group {} has {} rows, of {} in its metadata", group_, next_row_,
                                             metadata.RowGroup(group_)->num_rows()));
      batches_.reset();
      if (++group_ >= metadata.num_row_groups()) return false;
      next_row_ = 0;
      if (leaves_.empty()) {
        part = {nullptr, metadata.RowGroup(group_)->num_rows(), group_, 0};
        return true;
      }
      batches_ = value_of(reader_->GetRecordBatchReader({group_}, leaves_));
    }
  }

  std::int64_t position() const override {
    const double rows =
        static_cast<double>(std::max<std::int64_t>(1, reader_->parquet_reader()->metadata()->num_rows()));
    return static_cast<std::int64_t>(static_cast<double>(size_) * static_cast<double>(rows_done_) / rows);
  }

 private:
  void add_leaves(const parquet::arrow::SchemaField& field) {
    if (field.is_leaf() && std::find(leaves_.begin(), leaves_.end(), field.column_index) == leaves_.end())
      leaves_.push_back(field.column_index);
    for (const parquet::arrow::SchemaField& child : field.children) add_leaves(child);
  }

  std::int64_t size_;
  std::unique_ptr<parquet::arrow::FileReader> reader_;
  std::shared_ptr<arrow::Schema> schema_;
  std::vector<int> leaves_;
  std::unique_ptr<arrow::RecordBatchReader> batches_;  // of the row group
  int group_ = -1;
  std::int64_t next_row_ = 0;  // of the row group
  std::int64_t rows_done_ = 0;
};

class IpcTable final : public Table {
 public:
  explicit IpcTable(std::shared_ptr<arrow::io::RandomAccessFile> file) : file_(std::move(file)) {
    const auto start = value_of(file_->ReadAt(0, 6));
    is_file_ = start->ToString() == "ARROW1";
    open({});
  }

  const arrow::Schema& schema() const override { return *schema_; }

  void select(const std::vector<ColumnPath>& columns) override {
    std::vector<int> fields;
    for (const ColumnPath& path : columns)
      if (std::find(fields.begin(), fields.end(), path[0]) == fields.end()) fields.push_back(path[0]);
    std::sort(fields.begin(), fields.end());
    counts_only_ = fields.empty();
    if (counts_only_ && schema_->num_fields() > 0) fields = {0};
    open(fields);
  }

  bool next(Part& part) override {
    std::shared_ptr<arrow::RecordBatch> batch;
    if (is_file_ && index_ + 1 < reader_->num_record_batches())
      batch = value_of(reader_->ReadRecordBatch(index_ + 1));
    else if (!is_file_)
      require(stream_->ReadNext(&batch));
    if (!batch) {
      if (!is_file_) require_end();
      return false;
    }
    require(batch->Validate());
    ++index_;
    part = {counts_only_ ? nullptr : batch, batch->num_rows(), index_, 0};
    return true;
  }

  std::int64_t position() const override {
    const auto position = file_->Tell();
    return position.ok() ? *position : 0;
  }

 private:
  // A stream ends with a mark, which is missing in one that was cut between two batches.
  void require_end() {
    const std::int64_t size = value_of(file_->GetSize());
    if (size < 8 || value_of(file_->ReadAt(size - 8, 8))->ToString() != std::string("\xff\xff\xff\xff\0\0\0\0", 8))
      throw std::runtime_error("the stream ends without its end-of-stream mark");
  }

  void open(std::vector<int> fields) {
    arrow::ipc::IpcReadOptions options = arrow::ipc::IpcReadOptions::Defaults();
    options.memory_pool = memory();
    options.use_threads = false;
    options.included_fields = std::move(fields);
    if (is_file_) {
      reader_ = value_of(arrow::ipc::RecordBatchFileReader::Open(file_, options));
      schema_ = reader_->schema();
    } else {
      require(file_->Seek(0));
      stream_ = value_of(arrow::ipc::RecordBatchStreamReader::Open(file_, options));
      schema_ = stream_->schema();
    }
  }

  std::shared_ptr<arrow::io::RandomAccessFile> file_;
  bool is_file_ = false;  // else a stream
  std::shared_ptr<arrow::ipc::RecordBatchFileReader> reader_;
  std::shared_ptr<arrow::ipc::RecordBatchStreamReader> stream_;
  std::shared_ptr<arrow::Schema> schema_;
  bool counts_only_ = false;
  int index_ = -1;
};

}  // namespace

std::unique_ptr<Table> open_parquet(std::shared_ptr<arrow::io::RandomAccessFile> file) {
  return std::make_unique<ParquetTable>(std::move(file));
}

std::unique_ptr<Table> open_ipc(std::shared_ptr<arrow::io::RandomAccessFile> file) {
  return std::make_unique<IpcTable>(std::move(file));
}

// Not of malloc: its heap fragments with pages of this size.
arrow::MemoryPool* memory() {
  static arrow::CappedMemoryPool pool(arrow::default_memory_pool(), kMostMemory);
  return &pool;
}

}  // namespace adept::data
