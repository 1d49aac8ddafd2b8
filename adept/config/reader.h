// The visitor that fills the structs from a document and collects all problems.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adept/config/document.h"
#include "adept/config/types.h"

namespace adept::config {

/// What reading produces in addition to the values.
struct ReadResult {
  std::vector<Problem> problems;
  std::map<std::string, Location> locations;  ///< of every key that was given

  void add(const Location& location, const std::string& key, const std::string& text) {
    problems.push_back({location, key, text});
  }
};

/// "train.learning_rate" -> "learning_rate".
std::string last_part(const std::string& key);
/// The key for an option that other trainers call `name`; empty if it is unknown.
std::string_view name_of_others(std::string_view name);

// Single values. Each returns whether `value` is valid and sets `target`; otherwise it adds a problem.
/// `multiline`: the string may have line breaks and tabs.
bool read_string(const Value& value, const std::string& key, std::string& target, ReadResult& result,
                 bool multiline = false);
bool read_bool(const Value& value, const std::string& key, bool& target, ReadResult& result);
bool read_integer(const Value& value, const std::string& key, const FieldOptions& options, std::int64_t& target,
                  ReadResult& result);
bool read_number(const Value& value, const std::string& key, const FieldOptions& options, double& target,
                 ReadResult& result);
/// The same where something else may stand there too: `expected` is all of it.
bool read_number(const Value& value, const std::string& key, const FieldOptions& options, const std::string& expected,
                 double& target, ReadResult& result);
/// A number, or points of ascending progress whose values are in the range or 0, but not all 0.
bool read_schedule(const Value& value, const std::string& key, const FieldOptions& options,
                   data::WeightSchedule& target, ReadResult& result);
/// The items of a list that the command line gives as 3,7,11; any other scalar is one item.
std::vector<Value> split_at_commas(const Value& value);
/// Adds "found X; expected Y".
void add_mismatch(const Value& value, const std::string& key, const std::string& expected, ReadResult& result);
/// Adds a mismatch, with `; did you mean "name"?` if one of the names is near.
void add_unknown_choice(const Value& value, const std::string& key, const std::string& expected,
                        const std::vector<std::string>& names, ReadResult& result);
/// A string that must be one of `names`.
bool read_name(const Value& value, const std::string& key, const std::vector<std::string>& names, std::string& target,
               ReadResult& result);
/// Adds a problem for an unknown key of a section whose keys are `known`.
void add_unknown_key(const Entry& entry, const std::string& section, const std::vector<std::string>& known,
                     ReadResult& result);

class SectionReader {
 public:
  /// `section` is nullptr if the document lacks it; `location` is where it is, or should be.
  SectionReader(const Value* section, Location location, std::string path, ReadResult& result)
      : section_(section), location_(std::move(location)), path_(std::move(path)), result_(result) {}

  template <typename T>
  void operator()(T& member, std::string_view name, std::string_view, const FieldOptions& options = {}) {
    known_.emplace_back(name);
    const std::string key = path_.empty() ? std::string(name) : path_ + "." + std::string(name);
    const Value* value = section_ == nullptr ? nullptr : section_->find(name);
    if (value != nullptr) {
      result_.locations[key] = value->location;
      read(member, *value, key, options);
    } else if constexpr (kIsSection<T>) {
      read_section(member, nullptr, location_, key);
    } else if (options.required) {
      result_.add(location_, key, "found nothing; expected " + expected_text<T>(options));
    }
  }

  /// Reports the keys that match no field.
  void finish() {
    if (section_ == nullptr) return;
    std::size_t num_unknown = 0;
    for (const Entry& entry : section_->entries) {
      if (std::find(known_.begin(), known_.end(), entry.key) != known_.end()) continue;
      if (++num_unknown <= kMostProblems)
        add_unknown_key(entry, path_, known_, result_);
      else
        result_.add(entry.location, entry.key, "found an unknown key");  // only counted
    }
  }

 private:
  template <typename T>
  bool read(T& member, const Value& value, const std::string& key, const FieldOptions& options) {
    if constexpr (kIsOptional<T>) {
      return read_optional(member, value, key, options);
    } else if constexpr (kIsList<T>) {
      return read_list(member, value, key, options);
    } else if constexpr (kIsSection<T>) {
      if (value.kind == Value::Kind::kSection || value.kind == Value::Kind::kNull)
        return read_section(member, &value, value.location, key);
      add_mismatch(value, key, expected_text<T>(options), result_);
      return false;
    } else if constexpr (std::is_enum_v<T>) {
      return read_choice(member, value, key, options);
    } else if constexpr (std::is_same_v<T, std::string>) {
      return options.names == nullptr ? read_string(value, key, member, result_, options.multiline)
                                      : read_name(value, key, options.names(), member, result_);
    } else if constexpr (std::is_same_v<T, bool>) {
      return read_bool(value, key, member, result_);
    } else if constexpr (std::is_same_v<T, std::int64_t>) {
      return read_integer(value, key, options, member, result_);
    } else if constexpr (std::is_same_v<T, data::WeightSchedule>) {
      return read_schedule(value, key, options, member, result_);
    } else {
      return read_number(value, key, options, member, result_);
    }
  }

  template <typename T>
  bool read_optional(std::optional<T>& member, const Value& value, const std::string& key,
                     const FieldOptions& options) {
    T inner{};
    const bool is_null = value.kind == Value::Kind::kNull;
    if (!is_null && !read(inner, value, key, options)) return false;
    member = is_null ? std::nullopt : std::optional<T>(inner);
    return true;
  }

  template <typename T>
  bool read_list(std::vector<T>& member, const Value& value, const std::string& key, const FieldOptions& options) {
    std::vector<T> items;
    bool good = true;
    if (value.kind == Value::Kind::kNull && !options.required) {
      member.clear();
      return true;
    }
    const bool is_word = value.kind == Value::Kind::kScalar &&
                         (std::is_same_v<T, std::string> || (value.location.is_override && !kIsSection<T>));
    if (is_word) {
      const std::vector<Value> words = split_at_commas(value);
      for (const Value& word : words)
        good &= read(items.emplace_back(), word, words.size() == 1 ? key : fmt::format("{}.{}", key, items.size() - 1),
                     options);
    } else if (value.kind != Value::Kind::kList || (options.required && value.items.empty())) {
      const std::string found = value.kind == Value::Kind::kList ? "an empty list" : value.describe();
      result_.add(value.location, key,
                  fmt::format("found {}; expected {}", found, expected_text<std::vector<T>>(options)));
      return false;
    }
    for (const Value& item : value.items) {
      const std::string item_key = key + "." + std::to_string(items.size());
      result_.locations[item_key] = item.location;
      good &= read(items.emplace_back(), item, item_key, options);
    }
    member = std::move(items);
    return good;
  }

  template <typename T>
  bool read_choice(T& member, const Value& value, const std::string& key, const FieldOptions& options) {
    std::optional<T> choice;
    if (value.kind == Value::Kind::kScalar) choice = from_string<T>(value.text);
    if (choice) {
      member = *choice;
      return true;
    }
    std::vector<std::string> names;
    for (const auto& known : kChoices<T>) names.emplace_back(known.name);
    add_unknown_choice(value, key, expected_text<T>(options), names, result_);
    return false;
  }

  template <typename T>
  bool read_section(T& member, const Value* value, const Location& location, const std::string& key) {
    SectionReader inner(value, location, key, result_);
    describe(inner, member);
    inner.finish();
    return true;
  }

  const Value* section_;
  Location location_;
  std::string path_;
  ReadResult& result_;
  std::vector<std::string> known_;
};

/// Checks constraints between fields, sets unset alternatives, and expands a leading ~ in paths. Skips keys that
/// already have a problem.
void check_and_resolve(RunConfig& config, Purpose purpose, const Location& document, ReadResult& result);

}  // namespace adept::config
