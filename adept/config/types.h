// Names of a field's C++ type in messages and in the table of keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "adept/config/schema.h"

namespace adept::config {

template <typename T>
inline constexpr bool kIsOptional = false;
template <typename T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <typename T>
inline constexpr bool kIsList = false;
template <typename T>
inline constexpr bool kIsList<std::vector<T>> = true;

/// "a, b or c".
std::string join_names(const std::vector<std::string>& names, std::string_view separator,
                       std::string_view last_separator);

/// "number > 0", "fp32|bf16", "list of integers >= 0" ...
template <typename T>
std::string type_text(const FieldOptions& options) {
  if constexpr (kIsOptional<T>)
    return type_text<typename T::value_type>(options);
  else if constexpr (std::is_same_v<T, std::vector<std::string>>)
    return "string or list of strings";
  else if constexpr (std::is_same_v<T, std::vector<std::int64_t>>)
    return "list of integers" + options.range.text();
  else if constexpr (std::is_same_v<T, data::WeightSchedule>)
    return "number" + options.range.text() + ", or list of [progress from 0 to 1, number]";
  else if constexpr (kIsList<T>)
    return "list of sections";
  else if constexpr (kIsSection<T>)
    return "section";
  else if constexpr (std::is_same_v<T, std::string>)
    return options.names == nullptr ? "string" : join_names(options.names(), "|", "|");
  else if constexpr (std::is_same_v<T, bool>)
    return "true|false";
  else if constexpr (std::is_enum_v<T>)
    return choices_of<T>();
  else if constexpr (std::is_integral_v<T>)
    return "integer" + options.range.text();
  else
    return "number" + options.range.text();
}

/// The same for a sentence: "a number > 0", "fp32 or bf16".
template <typename T>
std::string expected_text(const FieldOptions& options) {
  if constexpr (kIsOptional<T>)
    return expected_text<typename T::value_type>(options);
  else if constexpr (std::is_enum_v<T>)
    return choices_of<T>(", ", " or ");
  else if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_same_v<T, std::string>)
    return options.names == nullptr ? "a string" : join_names(options.names(), ", ", " or ");
  else if constexpr (std::is_same_v<T, std::vector<std::string>>)
    return "a string or a list of strings";
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return "an " + type_text<T>(options);
  else if constexpr (std::is_same_v<T, data::WeightSchedule>)
    return "a number" + options.range.text() + ", or a list [[progress, value], ...]";
  else
    return "a " + type_text<T>(options);
}

/// One line of the table of keys.
struct KeyDoc {
  std::string key;  ///< dotted; N stands for an index
  std::string type;
  std::string fallback;  ///< the default as YAML; "required"; or what an unset key means
  std::string unit;
  std::string doc;
  unsigned decides = 0;            ///< of config::decides
  unsigned methods = kAllMethods;  ///< of bit_of
};

/// Every key that holds a value, in order.
const std::vector<KeyDoc>& all_keys();

}  // namespace adept::config
