// Reads a config.json strictly: every key must be understood, or is rejected by name. All problems are collected.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/json.h"

namespace adept::model {

/// Reads the keys of one JSON object. Asking for a key marks it as understood.
class ConfigReader {
 public:
  /// `prefix` ("rope_scaling.") precedes each key in messages; problems go to `problems`.
  ConfigReader(const Json& object, std::string prefix, std::vector<std::string>& problems);

  bool has(std::string_view key) const;                                                 ///< present and not null
  bool present(std::string_view key) const;                                             ///< present, perhaps null
  bool is_null_or_one_of(std::string_view key, const std::vector<Json>& values) const;  ///< or absent
  /// The value (null if absent), marked as understood.
  const Json& take(std::string_view key);

  /// Present and not null, else `fallback`; without a fallback a missing key is a problem. Outside [low, high] is a
  /// problem, and the result is then `low`.
  std::int64_t integer(std::string_view key, std::optional<std::int64_t> fallback, std::int64_t low, std::int64_t high);
  /// A finite number above `above`.
  double number(std::string_view key, std::optional<double> fallback, double above);
  bool boolean(std::string_view key, bool fallback);
  std::optional<std::string> text(std::string_view key);
  /// An integer or a list of integers; empty if absent or null.
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t low, std::int64_t high);

  /// A key that would change the mathematics unless it has (one of) the given values, or is null or absent.
  void require(std::string_view key, const std::vector<Json>& allowed, std::string_view what_to_do);
  /// A key that changes nothing that is computed here, whatever it says.
  void ignore(std::string_view key) { understood_.insert(std::string(key)); }

  /// A reader of the object at `key`, which must be one; it reports to the same list.
  ConfigReader inside(std::string_view key);

  void problem(std::string_view key, const std::string& text);
  /// Rejects unread keys by name; `what_to_do` ends the message.
  void refuse_unknown(std::string_view what_to_do);

 private:
  const Json& object_;
  std::string prefix_;
  std::vector<std::string>& problems_;
  std::set<std::string, std::less<>> understood_;
};

}  // namespace adept::model
