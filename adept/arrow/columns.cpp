#include "adept/arrow/columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "adept/core/json.h"

namespace adept::data {
namespace {

using arrow::Array;
using arrow::Type;

/// What is wrong with a value; not with the file.
struct ValueError {
  std::string found;
};

/// A row of an array of a plain type: dictionaries are resolved.
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

bool is_number_or_boolean(const Cell& cell) {
  const Type::type type = cell.array->type_id();
  return type == Type::BOOL || arrow::is_integer(type) || arrow::is_floating(type);
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
    // As short as a float allows, not with the digits of the double of the same value.
    if (scalar.ok() && cell.array->type_id() == Type::FLOAT)
      return std::stod(fmt::format("{}", static_cast<const arrow::FloatScalar&>(**scalar).value));
    if (scalar.ok() && arrow::is_floating(cell.array->type_id()))
      if (const auto real = (*scalar)->CastTo(arrow::float64()); real.ok())
        return static_cast<const arrow::DoubleScalar&>(**real).value;
    throw ValueError{cell.array->type()->ToString()};
  }

  std::size_t used_ = 0;
};

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

}  // namespace

std::vector<ColumnPath> columns_of(const arrow::Schema& schema, const WantedField& wanted) {
  std::vector<ColumnPath> found;
  find_columns(schema.fields(), wanted.path, {}, found);
  return found;
}

bool has_columns(const arrow::Schema& schema, const std::vector<WantedField>& wanted) {
  return std::all_of(wanted.begin(), wanted.end(),
                     [&](const WantedField& field) { return !columns_of(schema, field).empty(); });
}

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
    } else if (wanted.form == WantedField::Form::kScalar && is_number_or_boolean(cell)) {
      const Json value = JsonWriter().convert(cell);
      if (value.is_number_float() && !std::isfinite(value.get<double>()))
        throw ValueError{"a number that is not finite"};
      field.text = value.dump();
    } else {
      throw ValueError{cell.array->type()->ToString()};
    }
  } catch (const ValueError& error) {
    field.state = Field::State::kOtherType;
    field.type = error.found;
  }
}

}  // namespace adept::data
