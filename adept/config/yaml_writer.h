// Converts the configuration's structs to JSON values, and these to YAML.
#pragma once

#include <string>

#include "adept/config/types.h"
#include "adept/core/json.h"

namespace adept::config {

template <typename T>
Json encode(const T& value);

/// Visitor that collects a section's fields in order.
struct JsonCollector {
  Json object = Json::object();

  template <typename T>
  void operator()(T& member, std::string_view name, std::string_view, const FieldOptions& = {}) {
    object[std::string(name)] = encode(member);
  }
};

template <typename T>
Json encode(const T& value) {
  if constexpr (kIsOptional<T>) {
    return value ? encode(*value) : Json(nullptr);
  } else if constexpr (kIsList<T>) {
    Json list = Json::array();
    for (const auto& item : value) list.push_back(encode(item));
    return list;
  } else if constexpr (kIsSection<T>) {
    JsonCollector collector;
    T copy = value;
    describe(collector, copy);
    return collector.object;
  } else if constexpr (std::is_enum_v<T>) {
    return std::string(to_string(value));
  } else if constexpr (std::is_same_v<T, data::WeightSchedule>) {
    return value.to_json();
  } else {
    return value;
  }
}

/// One value or a list of plain values as written in YAML: 0.0002, fp32, "no", [3, 7].
std::string yaml_scalar(const Json& value);

}  // namespace adept::config
