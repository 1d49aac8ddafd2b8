// Columns of Arrow tables, and the values in them.
#pragma once

#include <arrow/api.h>

#include <cstdint>
#include <vector>

#include "adept/data/readers/reader.h"

namespace adept::data {

/// The place of a column: the index of a top-level field, then of members of structs.
using ColumnPath = std::vector<int>;

/// The columns with the name of a field, where "a.b" is also the member b of the struct a.
std::vector<ColumnPath> columns_of(const arrow::Schema& schema, const WantedField& wanted);
/// Whether each field has one.
bool has_columns(const arrow::Schema& schema, const std::vector<WantedField>& wanted);

/// Sets a field from a row of its column. Offsets in damaged files may point anywhere.
void read_value(const arrow::RecordBatch& batch, const ColumnPath& path, std::int64_t row, const WantedField& wanted,
                Field& field);

}  // namespace adept::data
