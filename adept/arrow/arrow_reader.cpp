// Parquet and Arrow IPC through Arrow C++, the only file that includes its headers. Rows are read in slices: of a row
// group a few at a time, of a record batch (which is read as a whole) one at a time. Only the wanted columns are read.
#include <arrow/api.h>
#include <arrow/io/file.h>
#include <arrow/ipc/reader.h>
#include <arrow/util/key_value_metadata.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/schema.h>
#include <parquet/file_reader.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/data/readers/arrow_module.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

using arrow::Array;
using arrow::Type;

// A dictionary of long texts may expand to its size per row, so slices are short.
constexpr std::int64_t kMostRows = 64;
constexpr std::int64_t kSliceBytes = std::int64_t{4} << 20;
constexpr std::int64_t kMostMemory = std::int64_t{4} << 30;  // of a record batch, or a page and its dictionary
constexpr std::int64_t kStreamBuffer = std::int64_t{1} << 20;

/// What is wrong with a value; not with the file.
struct ValueError {
  std::string found;
};

// ----------------------------------------------------------------------------------------------------------------
// values

/// A row of an array of a plain type: dictionaries are resolved. Offsets in damaged files may point anywhere.
struct Cell {
  const Array* array;
  std::int64_t row;

  bool is_null() const { return array->type_id() == Type::NA || array->IsNull(row); }
};

Cell resolve(Cell cell) {
  while (cell.array->type_id() == Type::DICTIONARY && !cell.is_null()) {
    const auto& dictionary = static_cast<const arrow::DictionaryArray&>(*cell.array);
    const std::int64_t index = dictionary.GetValueIndex(cell.row);
    if (index < 0 || index >= dictionary.dictionary()->length()) throw ValueError{"an index outside the dictionary"};
    cell = {dictionary.dictionary().get(), index};
  }
  return cell;
}

template <typename StringArray>
std::string_view string_in(const Array& array, std::int64_t row) {
  const auto& strings = static_cast<const StringArray&>(array);
  const std::int64_t begin = strings.value_offset(row), end = strings.value_offset(row + 1);
  const std::int64_t size = strings.value_data() ? strings.value_data()->size() : 0;
  if (begin < 0 || end < begin || end > size) throw ValueError{"offsets outside the data"};
  return {reinterpret_cast<const char*>(size > 0 ? strings.value_data()->data() : nullptr) + begin,
          static_cast<std::size_t>(end - begin)};
}

std::string_view string_in_view(const Array& array, std::int64_t row) {
  const auto& strings = static_cast<const arrow::StringViewArray&>(array);
  const auto& view = strings.raw_values()[row];
  if (view.size() < 0) throw ValueError{"a negative size"};
  if (view.is_inline()) return strings.GetView(row);
  const auto& buffers = array.data()->buffers;  // the first two hold nulls and views
  const auto index = static_cast<std::size_t>(view.ref.buffer_index) + 2;
  if (view.ref.buffer_index < 0 || index >= buffers.size() || view.ref.offset < 0 || view.ref.size < 0 ||
      std::int64_t{view.ref.offset} + view.ref.size > buffers[index]->size())
    throw ValueError{"offsets outside the data"};
  return strings.GetView(row);
}

/// The text of a string; nothing for other types.
std::optional<std::string_view> string_of(const Cell& cell) {
  switch (cell.array->type_id()) {
    case Type::STRING:
      return string_in<arrow::StringArray>(*cell.array, cell.row);
    case Type::LARGE_STRING:
      return string_in<arrow::LargeStringArray>(*cell.array, cell.row);
    case Type::STRING_VIEW:
      return string_in_view(*cell.array, cell.row);
    default:
      return std::nullopt;
  }
}

/// Converts values to JSON, up to a limit.
class JsonWriter {
 public:
  Json convert(Cell cell, int depth = 0) {
    if (depth > kMaxJsonDepth / 2) throw ValueError{"nesting that is too deep"};
    if (cell.is_null()) return nullptr;
    cell = resolve(cell);
    if (cell.is_null()) return nullptr;
    spend(16);
    if (const auto text = string_of(cell)) {
      spend(text->size());
      return std::string(*text);
    }
    switch (cell.array->type_id()) {
      case Type::BOOL:
        return static_cast<const arrow::BooleanArray&>(*cell.array).Value(cell.row);
      case Type::STRUCT:
        return object(cell, depth);
      case Type::LIST:
        return list<arrow::ListArray>(cell, depth);
      case Type::LARGE_LIST:
        return list<arrow::LargeListArray>(cell, depth);
      default:
        return number(cell);
    }
  }

 private:
  void spend(std::size_t bytes) {
    used_ += bytes;
    if (used_ > kMaxJsonValueBytes) throw ValueError{fmt::format("a value of more than {} bytes", kMaxJsonValueBytes)};
  }

  Json object(const Cell& cell, int depth) {
    const auto& members = static_cast<const arrow::StructArray&>(*cell.array);
    Json json = Json::object();
    for (int i = 0; i < members.num_fields(); ++i)
      json[members.type()->field(i)->name()] = convert({members.field(i).get(), cell.row}, depth + 1);
    return json;
  }

  template <typename ListArray>
  Json list(const Cell& cell, int depth) {
    const auto& lists = static_cast<const ListArray&>(*cell.array);
    const std::int64_t begin = lists.value_offset(cell.row), end = lists.value_offset(cell.row + 1);
    if (begin < 0 || end < begin || end > lists.values()->length()) throw ValueError{"offsets outside the data"};
    Json json = Json::array();
    for (std::int64_t i = begin; i < end; ++i) json.push_back(convert({lists.values().get(), i}, depth + 1));
    return json;
  }

  static Json number(const Cell& cell) {
    const auto scalar = cell.array->GetScalar(cell.row);
    if (scalar.ok() && arrow::is_integer(cell.array->type_id()))
      if (const auto integer = (*scalar)->CastTo(arrow::int64()); integer.ok())
        return static_cast<const arrow::Int64Scalar&>(**integer).value;
    if (scalar.ok() && arrow::is_floating(cell.array->type_id()))
      if (const auto real = (*scalar)->CastTo(arrow::float64()); real.ok())
        return static_cast<const arrow::DoubleScalar&>(**real).value;
    throw ValueError{cell.array->type()->ToString()};
  }

  std::size_t used_ = 0;
};

// ---------------------------------------------------------------------------------------------------------------
// columns

/// The place of a column: the index of a top-level field, then of members of structs.
using ColumnPath = std::vector<int>;

/// The columns with the name `path`, where "a.b" is also the member b of the struct a.
void find_columns(const arrow::FieldVector& fields, std::string_view path, const ColumnPath& above,
                  std::vector<ColumnPath>& found) {
  for (int i = 0; i < static_cast<int>(fields.size()); ++i) {
    const arrow::Field& field = *fields[static_cast<std::size_t>(i)];
    ColumnPath here = above;
    here.push_back(i);
    const std::string& name = field.name();
    if (name == path)
      found.push_back(here);
    else if (path.size() > name.size() && path.starts_with(name) && path[name.size()] == '.' &&
             field.type()->id() == Type::STRUCT)
      find_columns(field.type()->fields(), path.substr(name.size() + 1), here, found);
  }
}

std::vector<ColumnPath> columns_of(const arrow::Schema& schema, const WantedField& wanted) {
  std::vector<ColumnPath> found;
  find_columns(schema.fields(), wanted.path, {}, found);
  return found;
}

bool has_columns(const arrow::Schema& schema, const std::vector<WantedField>& wanted) {
  return std::all_of(wanted.begin(), wanted.end(),
                     [&](const WantedField& field) { return !columns_of(schema, field).empty(); });
}

/// Sets a field from a row of its column.
void read_value(const arrow::RecordBatch& batch, const ColumnPath& path, std::int64_t row, const WantedField& wanted,
                Field& field) {
  std::vector<std::shared_ptr<Array>> owners = {batch.column(path.front())};
  field.state = Field::State::kNull;
  for (std::size_t i = 1; i < path.size(); ++i) {
    if (owners.back()->IsNull(row)) return;
    owners.push_back(static_cast<const arrow::StructArray&>(*owners.back()).field(path[i]));
  }
  Cell cell = {owners.back().get(), row};
  try {
    if (!cell.is_null()) cell = resolve(cell);
    if (cell.is_null()) return;
    field.state = Field::State::kValue;
    if (wanted.form == WantedField::Form::kJson) {
      field.text = JsonWriter().convert(cell).dump(-1, ' ', false, Json::error_handler_t::ignore);
    } else if (const auto text = string_of(cell)) {
      field.text = *text;
    } else {
      throw ValueError{cell.array->type()->ToString()};
    }
  } catch (const ValueError& error) {
    field.state = Field::State::kOtherType;
    field.type = error.found;
  }
}

// -----------------------------------------------------------------------------------------------------------------
// files

/// A part of a file: a row group, or a record batch.
struct Part {
  std::shared_ptr<arrow::RecordBatch> rows;  ///< nullptr: no wanted column exists, and only the rows count
  std::int64_t num_rows = 0;
  std::int64_t index = 0;      ///< of the row group or record batch
  std::int64_t first_row = 0;  ///< in it
};

template <typename T>
T value_of(arrow::Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return std::move(result).ValueUnsafe();
}
void require(const arrow::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

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

// Not of malloc: its heap fragments with pages of this size.
arrow::MemoryPool* memory() {
  static arrow::CappedMemoryPool pool(arrow::default_memory_pool(), kMostMemory);
  return &pool;
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

// ----------------------------------------------------------------------------------------------------------------
// reader

class TableReader final : public Reader {
 public:
  TableReader(const ReaderOptions& options, ArrowForm form, std::shared_ptr<arrow::io::RandomAccessFile> file)
      : path_(options.path.string()), form_(form), wanted_(options.wanted) {
    translating([&] {
      if (form == ArrowForm::kParquet)
        table_ = std::make_unique<ParquetTable>(std::move(file));
      else
        table_ = std::make_unique<IpcTable>(std::move(file));
      const arrow::Schema& schema = table_->schema();
      KeyList keys("columns");
      for (const auto& field : schema.fields()) keys.add(field->name());
      keys_ = keys.text();
      is_fallback_ = !wanted_.fallback.empty() && !has_columns(schema, wanted_.fields);
      std::vector<ColumnPath> selected;
      for (const WantedField& field : fields()) {
        const std::vector<ColumnPath> found = columns_of(schema, field);
        if (found.size() > 1 && repeated_.empty())
          repeated_ = fmt::format("the column {} {} times", io::quote(field.path), found.size());
        if (!found.empty()) selected.push_back(found.front());
      }
      table_->select(selected);
    });
  }

  ReadResult next(Record& record, Fault& fault) override {
    while (row_ + 1 >= part_.num_rows) {
      bool more = false;
      translating([&] { more = table_->next(part_); });
      row_ = -1;
      if (!more) return part_.num_rows = 0, ReadResult::kEnd;
      if (part_.rows) map_columns();
    }
    ++row_;
    record.reset(wanted_);
    if (is_fallback_) record.fallback.resize(wanted_.fallback.size());
    if (!repeated_.empty()) {
      fault = {"repeated field", repeated_, "one column of each name"};
      return ReadResult::kBad;
    }
    std::vector<Field>& values = is_fallback_ ? record.fallback : record.fields;
    for (std::size_t i = 0; part_.rows && i < values.size(); ++i)
      if (!columns_[i].empty()) read_value(*part_.rows, columns_[i], row_, fields()[i], values[i]);
    record.keys = keys_;
    return ReadResult::kRecord;
  }

  std::string position() const override {
    return fmt::format("{}: {} {}, row {}", path_, form_ == ArrowForm::kParquet ? "row group" : "record batch",
                       part_.index, part_.first_row + std::max<std::int64_t>(0, row_));
  }
  std::int64_t file_position() const override { return table_->position(); }

 private:
  const std::vector<WantedField>& fields() const { return is_fallback_ ? wanted_.fallback : wanted_.fields; }

  // What is read has only the selected columns.
  void map_columns() {
    columns_.clear();
    for (const WantedField& field : fields()) {
      const std::vector<ColumnPath> found = columns_of(*part_.rows->schema(), field);
      columns_.push_back(found.empty() ? ColumnPath() : found.front());
    }
  }

  template <typename Work>
  void translating(const Work& work) const {
    try {
      work();
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      const std::string what = error.what();
      throw DataError("{}: cannot be read as {}: {}. The file is cut short or damaged; download or copy it again.",
                      path_, form_ == ArrowForm::kParquet ? "Parquet" : "Arrow IPC", what.substr(0, what.find('\n')));
    }
  }

  std::string path_;
  ArrowForm form_;
  WantedFields wanted_;
  std::unique_ptr<Table> table_;
  bool is_fallback_ = false;         // the columns are those of wanted_.fallback
  std::string keys_;                 // the names of the columns, for messages
  std::string repeated_;             // a wanted column that occurs twice
  std::vector<ColumnPath> columns_;  // of each wanted field, in the slice; empty: missing
  Part part_;
  std::int64_t row_ = -1;  // in the slice
};

}  // namespace
}  // namespace adept::data

extern "C" __attribute__((visibility("default"))) adept::data::Reader* adept_make_arrow_reader(
    const adept::data::ReaderOptions& options, adept::data::ArrowForm form, int fd) {
  auto file = arrow::io::ReadableFile::Open(fd, adept::data::memory());
  if (!file.ok()) throw adept::DataError("{}: cannot be opened: {}.", options.path.string(), file.status().message());
  return new adept::data::TableReader(options, form, *file);
}
