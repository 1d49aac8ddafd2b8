#include "adept/io/gguf.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "adept/core/error.h"
#include "adept/io/gguf_types.h"
#include "adept/io/text_quote.h"

namespace adept::io {
namespace {

template <typename T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

std::int64_t load_integer(GgufValueType type, const std::byte* bytes) {
  switch (type) {
    case GgufValueType::kUint8:
      return load<std::uint8_t>(bytes);
    case GgufValueType::kInt8:
      return load<std::int8_t>(bytes);
    case GgufValueType::kUint16:
      return load<std::uint16_t>(bytes);
    case GgufValueType::kInt16:
      return load<std::int16_t>(bytes);
    case GgufValueType::kUint32:
      return load<std::uint32_t>(bytes);
    case GgufValueType::kInt32:
      return load<std::int32_t>(bytes);
    default:
      return load<std::int64_t>(bytes);
  }
}

bool is_integer(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
      return true;
    default:
      return false;
  }
}

std::string type_of(const GgufValue& value) {
  if (value.type != GgufValueType::kArray) return std::string(gguf_type_name(value.type));
  return fmt::format("an array, each element {}", gguf_type_name(value.element_type));
}

}  // namespace

std::int64_t GgufTensor::num_elements() const {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

std::string describe(const GgufTensor& tensor) {
  return fmt::format("{} [{}]", ggml_name(tensor.type), fmt::join(tensor.shape, ", "));
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const GgufValue* GgufFile::value(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

namespace {

[[noreturn]] void fail_type(const GgufFile& file, std::string_view key, const GgufValue& value,
                            std::string_view expected) {
  throw DataError("{}: the metadata key {} is {}; expected {}.", file.where(), quote(key), type_of(value), expected);
}

std::int64_t checked_integer(const GgufFile& file, std::string_view key, GgufValueType type, const std::byte* bytes) {
  const std::int64_t integer = load_integer(type, bytes);
  if (type == GgufValueType::kUint64 && integer < 0)
    throw DataError("{}: the metadata key {} is {}; expected an integer below 2^63.", file.where(), quote(key),
                    load<std::uint64_t>(bytes));
  return integer;
}

}  // namespace

std::optional<std::string_view> GgufFile::string(std::string_view key) const {
  const GgufValue* found = value(key);
  if (!found) return std::nullopt;
  if (found->type != GgufValueType::kString) fail_type(*this, key, *found, "a string");
  return std::string_view(reinterpret_cast<const char*>(found->bytes.data()), found->bytes.size());
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* found = value(key);
  if (!found) return std::nullopt;
  if (found->type != GgufValueType::kBool) fail_type(*this, key, *found, "a boolean");
  return found->bytes.front() != std::byte{0};
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* found = value(key);
  if (!found) return std::nullopt;
  if (!is_integer(found->type)) fail_type(*this, key, *found, "an integer");
  return checked_integer(*this, key, found->type, found->bytes.data());
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const GgufValue* found = value(key);
  if (!found) return std::nullopt;
  if (is_integer(found->type))
    return static_cast<double>(checked_integer(*this, key, found->type, found->bytes.data()));
  if (found->type == GgufValueType::kFloat64) return load<double>(found->bytes.data());
  if (found->type == GgufValueType::kFloat32)
    return std::stod(fmt::format("{}", load<float>(found->bytes.data())));  // fmt writes the shortest decimal
  fail_type(*this, key, *found, "a number");
}

std::optional<std::vector<std::int64_t>> GgufFile::integers(std::string_view key) const {
  const GgufValue* found = value(key);
  if (!found) return std::nullopt;
  if (is_integer(found->type)) return std::vector{checked_integer(*this, key, found->type, found->bytes.data())};
  if (found->type != GgufValueType::kArray || !is_integer(found->element_type))
    fail_type(*this, key, *found, "an integer, or an array of integers");
  const std::size_t size = gguf_scalar_size(found->element_type);
  std::vector<std::int64_t> result(found->count);
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = checked_integer(*this, key, found->element_type, found->bytes.data() + i * size);
  return result;
}

std::optional<std::vector<double>> GgufFile::floats(std::string_view key) const {
  const GgufValue* found = value(key);
  if (!found) return std::nullopt;
  const bool narrow = found->element_type == GgufValueType::kFloat32;
  if (found->type != GgufValueType::kArray || !(narrow || found->element_type == GgufValueType::kFloat64))
    fail_type(*this, key, *found, "an array of floats");
  std::vector<double> result(found->count);
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = narrow ? static_cast<double>(load<float>(found->bytes.data() + i * sizeof(float)))
                       : load<double>(found->bytes.data() + i * sizeof(double));
  return result;
}

const std::vector<std::string_view>* GgufFile::strings(std::string_view key) const {
  const GgufValue* found = value(key);
  if (!found) return nullptr;
  if (found->type != GgufValueType::kArray || found->element_type != GgufValueType::kString)
    fail_type(*this, key, *found, "an array of strings");
  return &found->strings;
}

}  // namespace adept::io
