// A value of a JSON file with its location, so errors name the file, the path and the found value.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/json.h"

namespace adept::data::tok {

/// A view: the JSON document must outlive it. Every accessor throws DataError if the value has another type.
class JsonField {
 public:
  JsonField(const SortedJson& value, std::string file, std::string path = "");

  const SortedJson& json() const { return *value_; }
  /// "tokenizer.json: model.merges[3]"
  std::string where() const;

  JsonField at(std::string_view key) const;                   ///< member; throws if it is missing
  std::optional<JsonField> find(std::string_view key) const;  ///< member; nothing if it is missing or null
  JsonField at(std::size_t index) const;                      ///< element of an array
  std::size_t size() const;                                   ///< of an array
  std::vector<JsonField> elements() const;                    ///< of an array

  const std::string& as_string() const;
  bool as_bool() const;
  std::int64_t as_integer(std::int64_t low, std::int64_t high) const;
  char32_t as_character() const;  ///< a string of exactly one code point

  /// Throws unless it is an object with only these keys.
  void check_keys(std::initializer_list<std::string_view> known) const;
  /// `value` is "X"; this build supports `known`.
  [[noreturn]] void refuse(std::string_view found, std::string_view known) const;
  /// Any other problem: the location, then `problem`.
  [[noreturn]] void fail(std::string_view problem) const;

 private:
  [[noreturn]] void wrong_type(std::string_view expected) const;
  const SortedJson* value_;
  std::string file_;
  std::string path_;
};

}  // namespace adept::data::tok
