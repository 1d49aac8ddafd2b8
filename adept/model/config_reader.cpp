#include "adept/model/config_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace adept::model {

ConfigReader::ConfigReader(const Json& object, std::string prefix, std::vector<std::string>& problems)
    : object_(object), prefix_(std::move(prefix)), problems_(problems) {}

bool ConfigReader::present(std::string_view key) const { return object_.contains(key); }

bool ConfigReader::has(std::string_view key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

bool ConfigReader::is_null_or_one_of(std::string_view key, const std::vector<Json>& values) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() || std::find(values.begin(), values.end(), *found) != values.end();
}

const Json& ConfigReader::take(std::string_view key) {
  static const Json kNull;
  understood_.insert(std::string(key));
  const auto found = object_.find(key);
  return found == object_.end() ? kNull : *found;
}

ConfigReader ConfigReader::inside(std::string_view key) {
  return ConfigReader(take(key), fmt::format("{}{}.", prefix_, key), problems_);
}

void ConfigReader::problem(std::string_view key, const std::string& text) {
  problems_.push_back(fmt::format("{}{} {}", prefix_, key, text));
}

std::int64_t ConfigReader::integer(std::string_view key, std::optional<std::int64_t> fallback, std::int64_t low,
                                   std::int64_t high) {
  const Json& value = take(key);
  if (value.is_null()) {
    if (!fallback) problem(key, present(key) ? "is null; expected an integer" : "is missing");
    return fallback.value_or(low);
  }
  const bool whole =
      value.is_number_integer() && !(value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX);
  const std::int64_t found = whole ? value.get<std::int64_t>() : 0;
  if (!whole || found < low || found > high) {
    problem(key, fmt::format("is {}; expected an integer from {} to {}", brief(value), low, high));
    return fallback.value_or(low);
  }
  return found;
}

double ConfigReader::number(std::string_view key, std::optional<double> fallback, double above) {
  const Json& value = take(key);
  if (value.is_null()) {
    if (!fallback) problem(key, present(key) ? "is null; expected a number" : "is missing");
    return fallback.value_or(1.0);
  }
  const double found = value.is_number() ? value.get<double>() : std::nan("");
  if (!(found > above) || !std::isfinite(found)) {
    problem(key, fmt::format("is {}; expected a number above {}", brief(value), above));
    return fallback.value_or(1.0);
  }
  return found;
}

bool ConfigReader::boolean(std::string_view key, bool fallback) {
  const Json& value = take(key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    problem(key, fmt::format("is {}; expected true or false", brief(value)));
    return fallback;
  }
  return value.get<bool>();
}

std::optional<std::string> ConfigReader::text(std::string_view key) {
  const Json& value = take(key);
  if (value.is_null()) return std::nullopt;
  if (!value.is_string()) {
    problem(key, fmt::format("is {}; expected a string", brief(value)));
    return std::nullopt;
  }
  return value.get<std::string>();
}

std::vector<std::int64_t> ConfigReader::integers(std::string_view key, std::int64_t low, std::int64_t high) {
  const Json& value = take(key);
  if (value.is_null()) return {};
  const Json list = value.is_array() ? value : Json::array({value});
  std::vector<std::int64_t> result;
  for (const Json& item : list) {
    const bool whole =
        item.is_number_integer() && !(item.is_number_unsigned() && item.get<std::uint64_t>() > INT64_MAX);
    if (!whole || item.get<std::int64_t>() < low || item.get<std::int64_t>() > high) {
      problem(key, fmt::format("is {}; expected an integer from {} to {}, or a list of them", brief(value), low, high));
      return {};
    }
    result.push_back(item.get<std::int64_t>());
  }
  return result;
}

void ConfigReader::require(std::string_view key, const std::vector<Json>& allowed, std::string_view what_to_do) {
  const Json& value = take(key);
  if (is_null_or_one_of(key, allowed)) return;
  std::vector<std::string> names;
  for (const Json& item : allowed) names.push_back(brief(item));
  const std::string expected = names.empty() ? "" : fmt::format("; this build knows {} only", fmt::join(names, ", "));
  problem(key, fmt::format("is {}{}. {}", brief(value), expected, what_to_do));
}

void ConfigReader::refuse_unknown(std::string_view what_to_do) {
  for (const auto& [key, value] : object_.items()) {
    if (understood_.contains(key)) continue;
    problem(key, fmt::format("is {}, a key that this build does not know. {}", brief(value), what_to_do));
  }
}

}  // namespace adept::model
