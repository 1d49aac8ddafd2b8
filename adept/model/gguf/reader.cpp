#include "adept/model/gguf/reader.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "adept/io/text_quote.h"

namespace adept::model {
namespace {

using io::GgufFile;
using io::GgufValueType;
using io::quote;

constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();

// A metadata value for messages.
std::string brief(const GgufFile& file, const std::string& key) {
  const io::GgufValue& value = *file.value(key);
  if (value.type == GgufValueType::kArray) return fmt::format("an array of {}", value.count);
  if (value.type == GgufValueType::kString) return quote(*file.string(key));
  if (value.type == GgufValueType::kBool) return *file.boolean(key) ? "true" : "false";
  if (value.type == GgufValueType::kFloat32 || value.type == GgufValueType::kFloat64)
    return fmt::format("{}", *file.number(key));
  return fmt::format("{}", *file.integer(key));
}

}  // namespace

GgufReader::GgufReader(const GgufFile& file, std::string_view architecture, std::vector<std::string>& problems)
    : file_(file), prefix_(std::string(architecture) + "."), problems_(problems) {}

bool GgufReader::has(std::string_view key) {
  ignore(key);
  return file_.value(full(key)) != nullptr;
}

std::int64_t GgufReader::integer(std::string_view key, std::optional<std::int64_t> fallback, std::int64_t low) {
  ignore(key);
  const auto values = file_.integers(full(key));
  if (!values && fallback) return *fallback;
  if (!values) {
    problem("has no {}, an integer", quote(full(key)));
  } else if (values->empty()) {
    problem("{} is an empty array; expected an integer", quote(full(key)));
  } else if (std::ranges::any_of(*values, [&](std::int64_t value) { return value != values->front(); })) {
    problem("{} differs between the layers; only one value for all of them can be expressed", quote(full(key)));
  } else if (values->front() < low || values->front() > kLargest) {
    problem("{} is {}; expected {} to {}", quote(full(key)), values->front(), low, kLargest);
  } else {
    return values->front();
  }
  return low;
}

double GgufReader::positive_number(std::string_view key, std::optional<double> fallback) {
  ignore(key);
  const auto value = file_.number(full(key));
  if (!value && fallback) return *fallback;
  if (!value) {
    problem("has no {}, a number", quote(full(key)));
  } else if (!(*value > 0) || !std::isfinite(*value)) {
    problem("{} is {}; expected a number above 0", quote(full(key)), *value);
  } else {
    return *value;
  }
  return 1.0;
}

double GgufReader::scale(std::string_view key, double fallback) {
  return file_.number(full(key)) == 0.0 ? (ignore(key), fallback) : positive_number(key, fallback);
}

std::optional<std::string_view> GgufReader::text(std::string_view key) {
  ignore(key);
  return file_.string(full(key));
}

void GgufReader::require(std::string_view key, const std::vector<double>& neutral) {
  if (understood_.contains(key)) return;
  ignore(key);
  const io::GgufValue* found = file_.value(full(key));
  if (!found) return;
  const double value = found->type == GgufValueType::kBool ? *file_.boolean(full(key)) : *file_.number(full(key));
  const auto is_value = [&](double allowed) { return std::abs(value - allowed) <= 1e-6 * std::abs(allowed); };
  if (!std::ranges::any_of(neutral, is_value))
    problem("{} is {}: this changes the mathematics and is not implemented", quote(full(key)), brief(file_, full(key)));
}

void GgufReader::understand(std::string_view key, std::string_view value) {
  if (file_.string(full(key)) == value) ignore(key);
}

void GgufReader::refuse_unknown() {
  for (const std::string& key : file_.keys()) {
    if (!key.starts_with(prefix_) || understood_.contains(std::string_view(key).substr(prefix_.size()))) continue;
    problem("{} is {}: this key is not known here and may change the mathematics", quote(key), brief(file_, key));
  }
}

bool GgufReader::has_attention_bias() const {
  return first_layer_has({"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"});
}

bool GgufReader::has_mlp_bias() const { return first_layer_has({"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"}); }

bool GgufReader::first_layer_has(std::initializer_list<std::string_view> tensors) const {
  return std::ranges::any_of(
      tensors, [&](std::string_view name) { return file_.find(fmt::format("blk.0.{}", name)) != nullptr; });
}

}  // namespace adept::model
