#include "adept/config/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

#include "adept/core/nearest_name.h"

namespace adept::config {
namespace {

constexpr double kLargestShownLimit = 1e15;

/// Names of the same options in other trainers.
constexpr std::pair<std::string_view, std::string_view> kOtherNames[] = {
    {"lr", "train.learning_rate"},
    {"lr_scheduler_type", "train.lr_scheduler"},
    {"per_device_train_batch_size", "train.batch_size"},
    {"micro_batch_size", "train.batch_size"},
    {"per_device_eval_batch_size", "eval.batch_size"},
    {"gradient_accumulation_steps", "train.grad_accum"},
    {"epochs", "train.num_train_epochs"},
    {"adam_epsilon", "train.adam_eps"},
    {"gradient_clipping", "train.max_grad_norm"},
    {"model_name_or_path", "model"},
    {"max_seq_length", "seq_len"},
    {"max_length", "seq_len"},
    {"cutoff_len", "seq_len"},
    {"block_size", "seq_len"},
    {"bf16", "dtype"},
    {"torch_dtype", "dtype"},
};

std::string without_underscores(std::string text) {
  std::erase(text, '_');
  if (text.starts_with('+')) text.erase(0, 1);
  return text;
}

bool is_plain(const Value& value, ScalarType type) {
  return value.kind == Value::Kind::kScalar && !value.quoted && scalar_type(value.text) == type;
}

/// Finite doubles only.
bool parse_number(const Value& value, double& number) {
  if (!is_plain(value, ScalarType::kInteger) && !is_plain(value, ScalarType::kNumber)) return false;
  const std::string text = without_underscores(value.text);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(number);
}

/// "15%", as 0.15.
bool parse_percent(const Value& value, double& number) {
  if (value.kind != Value::Kind::kScalar || !value.text.ends_with('%')) return false;
  Value percent = value;
  percent.text.pop_back();
  percent.quoted = false;
  if (!parse_number(percent, number)) return false;
  number /= 100;
  return true;
}

/// Digits, or a power such as 1e6. Not 010, which YAML 1.1 reads as eight, and not 3.0.
bool parse_integer(const Value& value, std::int64_t& integer) {
  const std::string text = without_underscores(value.text);
  if (is_plain(value, ScalarType::kNumber) && text.find('.') == std::string::npos) {
    double number = 0;
    if (!parse_number(value, number) || number != std::floor(number) || std::abs(number) > 0x1p53) return false;
    integer = static_cast<std::int64_t>(number);
    return true;
  }
  const std::size_t digits = text.starts_with('-') ? 1 : 0;
  if (!is_plain(value, ScalarType::kInteger) || (text.size() > digits + 1 && text[digits] == '0')) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), integer);
  return error == std::errc() && end == text.data() + text.size();
}

/// The full keys that the user may have meant by `name` in `section`.
std::vector<std::string> meant_keys(const std::string& name, const std::string& section,
                                    const std::vector<std::string>& known) {
  const std::string prefix = section.empty() ? "" : section + ".";
  std::vector<std::string> keys;
  if (const std::string_view ours = name_of_others(name); !ours.empty() && ours.starts_with(prefix))
    return {std::string(ours)};
  for (const KeyDoc& doc : all_keys())
    if (last_part(doc.key) == name) keys.push_back(doc.key);
  if (!keys.empty()) return keys;
  if (const std::string nearest = nearest_name(name, known); !nearest.empty()) return {prefix + nearest};
  if (const std::string_view ours = name_of_others(name); !ours.empty()) return {std::string(ours)};
  return {};
}

}  // namespace

std::string join_names(const std::vector<std::string>& names, std::string_view separator,
                       std::string_view last_separator) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i)
    text.append(i == 0 ? "" : i + 1 == names.size() ? last_separator : separator).append(names[i]);
  return text;
}

std::string last_part(const std::string& key) { return key.substr(key.rfind('.') + 1); }

std::string_view name_of_others(std::string_view name) {
  for (const auto& [other, ours] : kOtherNames)
    if (other == name) return ours;
  return {};
}

std::string Range::text() const {
  const bool has_min = std::isfinite(min), has_max = max < kLargestShownLimit;
  if (has_min && has_max && !above_min && !below_max) return fmt::format(" from {} to {}", min, max);
  std::string text;
  if (has_min) text += fmt::format(" {} {}", above_min ? ">" : ">=", min);
  if (has_max) text += fmt::format("{} {} {}", has_min ? " and" : "", below_max ? "<" : "<=", max);
  return text;
}

std::vector<Value> split_at_commas(const Value& value) {
  if (!value.location.is_override || value.quoted) return {value};
  std::vector<Value> items;
  std::istringstream words(value.text + ",");
  for (std::string word; std::getline(words, word, ',');) items.emplace_back(value).text = word;
  return items;
}

void add_mismatch(const Value& value, const std::string& key, const std::string& expected, ReadResult& result) {
  const bool quoted_number = value.quoted && (scalar_type(value.text) == ScalarType::kInteger ||
                                              scalar_type(value.text) == ScalarType::kNumber);
  result.add(
      value.location, key,
      fmt::format("found {}; expected {}{}", value.describe(), expected, quoted_number ? ", without quotes" : ""));
}

bool read_string(const Value& value, const std::string& key, std::string& target, ReadResult& result, bool multiline) {
  // On the command line everything is text, and nested quotes would be inconvenient.
  const bool is_text = value.quoted || value.location.is_override || is_plain(value, ScalarType::kString);
  if (value.kind != Value::Kind::kScalar || !is_text) {
    const bool scalar = value.kind == Value::Kind::kScalar;
    result.add(value.location, key,
               fmt::format("found {}; expected a string{}", value.describe(), scalar ? ", in quotes" : ""));
    return false;
  }
  const bool control = std::any_of(value.text.begin(), value.text.end(), [&](char c) {
    return (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) && !(multiline && (c == '\n' || c == '\t'));
  });
  if (value.text.empty() || control) {
    add_mismatch(value, key, control ? "a string without control characters" : "a string that is not empty", result);
    return false;
  }
  target = value.text;
  return true;
}

bool read_bool(const Value& value, const std::string& key, bool& target, ReadResult& result) {
  if (!is_plain(value, ScalarType::kBool)) {
    add_mismatch(value, key, "true or false", result);
    return false;
  }
  const char second = value.text[1];  // yes, true, on | no, false, off: distinguished by the first two letters
  const char first = value.text[0];
  target = first == 't' || first == 'T' || first == 'y' || first == 'Y' ||
           ((first == 'o' || first == 'O') && (second == 'n' || second == 'N'));
  return true;
}

bool read_integer(const Value& value, const std::string& key, const FieldOptions& options, std::int64_t& target,
                  ReadResult& result) {
  std::int64_t integer = 0;
  if (!parse_integer(value, integer) || !options.range.contains(static_cast<double>(integer))) {
    add_mismatch(value, key, expected_text<std::int64_t>(options), result);
    return false;
  }
  target = integer;
  return true;
}

bool read_number(const Value& value, const std::string& key, const FieldOptions& options, double& target,
                 ReadResult& result) {
  return read_number(value, key, options, expected_text<double>(options), target, result);
}

bool read_number(const Value& value, const std::string& key, const FieldOptions& options, const std::string& expected,
                 double& target, ReadResult& result) {
  double number = 0;
  const bool is_share = options.range.min == 0 && options.range.max == 1;
  const bool good = (is_share && parse_percent(value, number)) || parse_number(value, number);
  if (!good || !options.range.contains(number)) {
    const bool is_percentage = good && is_share && options.unit.starts_with("of ") && number >= 2 && number < 100 &&
                               !value.text.ends_with('%');
    add_mismatch(value, key, expected + (is_percentage ? fmt::format("; did you mean {}%?", value.text) : ""), result);
    return false;
  }
  target = number;
  return true;
}

bool read_schedule(const Value& value, const std::string& key, const FieldOptions& options,
                   data::WeightSchedule& target, ReadResult& result) {
  if (value.kind != Value::Kind::kList) {
    double number = 0;
    const std::string expected = expected_text<data::WeightSchedule>(options);
    const bool good = value.kind == Value::Kind::kScalar && read_number(value, key, options, expected, number, result);
    if (good) target = number;
    if (value.kind != Value::Kind::kScalar) add_mismatch(value, key, expected, result);
    return good;
  }
  FieldOptions of_value = options;
  of_value.range.above_min = false;  // a source may have weight 0 for a while
  const FieldOptions of_progress{.unit = "of the training", .range = kFraction};
  std::vector<data::WeightSchedule::Point> points;
  bool good = true;
  for (const Value& item : value.items) {
    const std::string item_key = fmt::format("{}.{}", key, points.size());
    data::WeightSchedule::Point& point = points.emplace_back();
    if (item.kind != Value::Kind::kList || item.items.size() != 2) {
      add_mismatch(item, item_key, "a list of two numbers, [progress, value]", result);
      good = false;
      continue;
    }
    good &= read_number(item.items[0], item_key + ".0", of_progress, point.progress, result);
    good &= read_number(item.items[1], item_key + ".1", of_value, point.value, result);
    if (good && points.size() > 1 && !(point.progress > points[points.size() - 2].progress)) {
      add_mismatch(item.items[0], item_key + ".0",
                   fmt::format("a number > {:g}, the progress of the point before", points[points.size() - 2].progress),
                   result);
      good = false;
    }
  }
  const auto is_zero = [](const data::WeightSchedule::Point& point) { return point.value == 0; };
  if (good && (points.empty() || (options.range.above_min && std::ranges::all_of(points, is_zero)))) {
    add_mismatch(value, key, "a point with a value above 0", result);
    good = false;
  }
  if (good) target = data::WeightSchedule(std::move(points));
  return good;
}

void add_unknown_choice(const Value& value, const std::string& key, const std::string& expected,
                        const std::vector<std::string>& names, ReadResult& result) {
  const std::string nearest = value.kind == Value::Kind::kScalar ? nearest_name(value.text, names) : "";
  add_mismatch(value, key, nearest.empty() ? expected : fmt::format("{}; did you mean {}?", expected, nearest), result);
}

bool read_name(const Value& value, const std::string& key, const std::vector<std::string>& names, std::string& target,
               ReadResult& result) {
  const bool is_known = value.kind == Value::Kind::kScalar && std::ranges::count(names, value.text) > 0;
  if (is_known)
    target = value.text;
  else
    add_unknown_choice(value, key, join_names(names, ", ", " or "), names, result);
  return is_known;
}

void add_unknown_key(const Entry& entry, const std::string& section, const std::vector<std::string>& known,
                     ReadResult& result) {
  const std::vector<std::string> meant = meant_keys(entry.key, section, known);
  const std::string key = (section.empty() ? "" : section + ".") + entry.key;
  const std::string printable = quote(key);
  result.add(entry.location, printable.substr(1, printable.size() - 2),
             meant.empty() ? fmt::format("found an unknown key; expected one of {}", join_names(known, ", ", ", "))
                           : fmt::format("found an unknown key; did you mean {}?", join_names(meant, ", ", " or ")));
}

}  // namespace adept::config
