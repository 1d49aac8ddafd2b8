#include "adept/io/gguf_types.h"

#include <fmt/format.h>

#include <utility>

#include "adept/core/error.h"

namespace adept::io {
namespace {

struct TypeInfo {
  GgmlType type;
  std::string_view name;
  GgmlBlock block;
};

// Block sizes: ggml-common.h. A super-block of the K types has 256 elements.
constexpr TypeInfo kSupported[] = {
    {GgmlType::kF32, "F32", {1, 4}},
    {GgmlType::kF16, "F16", {1, 2}},
    {GgmlType::kBF16, "BF16", {1, 2}},
    {GgmlType::kQ8_0, "Q8_0", {32, 2 + 32}},
    {GgmlType::kQ4_0, "Q4_0", {32, 2 + 16}},
    {GgmlType::kQ4_1, "Q4_1", {32, 2 + 2 + 16}},
    {GgmlType::kQ5_0, "Q5_0", {32, 2 + 4 + 16}},
    {GgmlType::kQ5_1, "Q5_1", {32, 2 + 2 + 4 + 16}},
    {GgmlType::kQ4_K, "Q4_K", {256, 2 + 2 + 12 + 128}},
    {GgmlType::kQ5_K, "Q5_K", {256, 2 + 2 + 12 + 32 + 128}},
    {GgmlType::kQ6_K, "Q6_K", {256, 128 + 64 + 16 + 2}},
};

constexpr std::pair<std::uint32_t, std::string_view> kUnsupported[] = {
    {4, "Q4_2"},    {5, "Q4_3"},     {9, "Q8_1"},   {10, "Q2_K"},   {11, "Q3_K"},  {15, "Q8_K"},  {16, "IQ2_XXS"},
    {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"},
    {24, "I8"},     {25, "I16"},     {26, "I32"},   {27, "I64"},    {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},
    {35, "TQ2_0"},  {39, "MXFP4"},   {40, "NVFP4"}, {41, "Q1_0"},
};

const TypeInfo& info_of(GgmlType type) {
  for (const TypeInfo& info : kSupported)
    if (info.type == type) return info;
  ADEPT_CHECK(false, "unknown ggml type {}", static_cast<std::uint32_t>(type));
}

}  // namespace

GgmlBlock ggml_block(GgmlType type) { return info_of(type).block; }

std::string_view ggml_name(GgmlType type) { return info_of(type).name; }

std::optional<GgmlType> supported_ggml_type(std::uint32_t number) {
  for (const TypeInfo& info : kSupported)
    if (static_cast<std::uint32_t>(info.type) == number) return info.type;
  return std::nullopt;
}

std::string ggml_name_of_number(std::uint32_t number) {
  if (const auto type = supported_ggml_type(number)) return std::string(ggml_name(*type));
  for (const auto& [known, name] : kUnsupported)
    if (known == number) return std::string(name);
  return fmt::format("type {}", number);
}

std::string supported_ggml_names() {
  std::string names;
  for (const TypeInfo& info : kSupported) names += fmt::format("{}{}", names.empty() ? "" : ", ", info.name);
  return names;
}

std::size_t gguf_scalar_size(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
      return 2;
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kFloat32:
      return 4;
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
    case GgufValueType::kFloat64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      break;
  }
  return 0;
}

std::string_view gguf_type_name(GgufValueType type) {
  constexpr std::string_view kNames[] = {
      "an 8-bit unsigned integer",
      "an 8-bit integer",
      "a 16-bit unsigned integer",
      "a 16-bit integer",
      "a 32-bit unsigned integer",
      "a 32-bit integer",
      "a 32-bit float",
      "a boolean",
      "a string",
      "an array",
      "a 64-bit unsigned integer",
      "a 64-bit integer",
      "a 64-bit float",
  };
  const auto number = static_cast<std::size_t>(type);
  return number < std::size(kNames) ? kNames[number] : "of an unknown type";
}

}  // namespace adept::io
