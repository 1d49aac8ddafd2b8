// Fields of a JSON object, with messages that name them.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/json.h"

namespace adept::method {

/// object[key] as a std::string, an integer type or double. Throws DataError, "PREFIXkey is FOUND; expected ...", for a
/// field that is missing, of another type, or out of the type's range.
template <typename T>
T json_field(const Json& object, const std::string& key, const std::string& prefix = "") {
  if (!object.is_object() || !object.contains(key)) throw DataError("{}{} is missing", prefix, key);
  const Json& value = object.at(key);
  const char* expected = "a number";
  if constexpr (std::is_same_v<T, std::string>) {
    if (value.is_string()) return value.get<T>();
    expected = "a string";
  } else if constexpr (std::is_integral_v<T>) {
    if (value.is_number_unsigned() && std::in_range<T>(value.get<std::uint64_t>())) return value.get<T>();
    if (value.is_number_integer() && !value.is_number_unsigned() && std::in_range<T>(value.get<std::int64_t>()))
      return value.get<T>();
    expected = "an integer";
  } else if (value.is_number()) {
    return value.get<T>();
  }
  throw DataError("{}{} is {}; expected {}", prefix, key, brief(value), expected);
}

/// The same, of a number from `least` to `most`.
template <typename T>
T json_field_in(const Json& object, const std::string& key, T least, T most, const std::string& prefix = "") {
  const T value = json_field<T>(object, key, prefix);
  if (!(value >= least && value <= most))
    throw DataError("{}{} is {}; expected {}", prefix, key, value,
                    most == std::numeric_limits<T>::max() ? fmt::format("at least {}", least)
                                                          : fmt::format("{} to {}", least, most));
  return value;
}

/// object[key], which must be a list.
inline const Json& json_list(const Json& object, const std::string& key) {
  if (!object.is_object() || !object.contains(key)) throw DataError("{} is missing", key);
  if (!object.at(key).is_array()) throw DataError("{} is {}; expected a list", key, brief(object.at(key)));
  return object.at(key);
}

}  // namespace adept::method
