#include "adept/data/tokenizer/json_field.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "adept/core/error.h"
#include "adept/data/tokenizer/unicode.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

// A short form of any value.
std::string shown(const SortedJson& value) {
  if (value.is_string()) return io::quote(value.get_ref<const std::string&>());
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("an array of {}", value.size());
  return value.dump();
}

}  // namespace

JsonField::JsonField(const SortedJson& value, std::string file, std::string path)
    : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

std::string JsonField::where() const { return path_.empty() ? file_ : file_ + ": " + path_; }

void JsonField::fail(std::string_view problem) const { throw DataError("{} {}", where(), problem); }

void JsonField::refuse(std::string_view found, std::string_view known) const {
  throw DataError("{} is {}; this build supports {}. Use a tokenizer without it.", where(), io::quote(found), known);
}

void JsonField::wrong_type(std::string_view expected) const {
  throw DataError("{} is {}; expected {}.", where(), shown(*value_), expected);
}

JsonField JsonField::at(std::string_view key) const {
  if (!value_->is_object()) wrong_type("an object");
  const auto found = value_->find(std::string(key));
  std::string path = path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  if (found == value_->end())
    throw DataError("{}: {} is missing. The file is incomplete or not a tokenizer.json.", file_, path);
  return {*found, file_, std::move(path)};
}

std::optional<JsonField> JsonField::find(std::string_view key) const {
  if (!value_->is_object()) wrong_type("an object");
  const auto found = value_->find(std::string(key));
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return at(key);
}

JsonField JsonField::at(std::size_t index) const {
  return {value_->at(index), file_, fmt::format("{}[{}]", path_, index)};
}

std::size_t JsonField::size() const {
  if (!value_->is_array()) wrong_type("an array");
  return value_->size();
}

std::vector<JsonField> JsonField::elements() const {
  std::vector<JsonField> all;
  for (std::size_t i = 0; i < size(); ++i) all.push_back(at(i));
  return all;
}

const std::string& JsonField::as_string() const {
  if (!value_->is_string()) wrong_type("a string");
  return value_->get_ref<const std::string&>();
}

bool JsonField::as_bool() const {
  if (!value_->is_boolean()) wrong_type("true or false");
  return value_->get<bool>();
}

std::int64_t JsonField::as_integer(std::int64_t low, std::int64_t high) const {
  const std::string expected = fmt::format("an integer from {} to {}", low, high);
  if (!value_->is_number_integer()) wrong_type(expected);
  if (value_->is_number_unsigned() && value_->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
    wrong_type(expected);
  const auto number = value_->get<std::int64_t>();
  if (number < low || number > high) wrong_type(expected);
  return number;
}

char32_t JsonField::as_character() const {
  const std::string& text = as_string();
  if (text.empty() || utf8_length(text[0]) != text.size()) wrong_type("a string of one character");
  std::size_t position = 0;
  return decode_utf8(text, position);
}

void JsonField::check_keys(std::initializer_list<std::string_view> known) const {
  if (!value_->is_object()) wrong_type("an object");
  for (const auto& [key, value] : value_->items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      throw DataError("{} has the key {}; this build supports {}. Use a tokenizer without it.", where(), io::quote(key),
                      fmt::join(known, ", "));
}

}  // namespace adept::data::tok
