// The header of a safetensors file as written, before its offsets are checked against the file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/dtype.h"

namespace adept::io {

/// The limit of the official library.
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes

/// One entry; its shape and the size that follows from it have been checked, its offsets only for begin <= end.
struct HeaderEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  ///< bytes from the end of the header
  std::uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> entries;  ///< in the order of the JSON
  std::map<std::string, std::string> metadata;
};

/// Parses the JSON without building a document, so memory is proportional to the number of tensors, and stops at the
/// first error. Throws DataError; `where` names the file.
SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& where);

}  // namespace adept::io
