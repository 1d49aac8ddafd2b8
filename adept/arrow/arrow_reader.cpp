// Parquet and Arrow IPC through Arrow C++, whose headers only this folder includes.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "adept/arrow/columns.h"
#include "adept/arrow/tables.h"
#include "adept/core/error.h"
#include "adept/data/readers/arrow_module.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

class TableReader final : public Reader {
 public:
  TableReader(const ReaderOptions& options, ArrowForm form, std::shared_ptr<arrow::io::RandomAccessFile> file)
      : path_(options.path.string()), form_(form), wanted_(options.wanted) {
    translating([&] {
      table_ = form == ArrowForm::kParquet ? open_parquet(std::move(file)) : open_ipc(std::move(file));
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
  if (const auto start = (*file)->ReadAt(0, 4);
      form == adept::data::ArrowForm::kIpc && start.ok() && (*start)->ToString() == "FEA1")
    throw adept::DataError(
        "{}: is a Feather file of version 1; expected Arrow IPC, or version 2. Write it again: "
        "pyarrow.feather.write_feather(pyarrow.feather.read_table(OLD), NEW).",
        options.path.string());
  return new adept::data::TableReader(options, form, *file);
}
