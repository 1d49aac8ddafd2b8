#include "adept/core/dtype.h"

#include <array>

#include "adept/core/error.h"

namespace adept {
namespace {

struct Entry {
  DType dtype;
  std::string_view name;
  std::size_t size;
};

constexpr std::array kEntries = {
    Entry{DType::kBool, "BOOL", 1}, Entry{DType::kU8, "U8", 1},          Entry{DType::kI8, "I8", 1},
    Entry{DType::kI16, "I16", 2},   Entry{DType::kU16, "U16", 2},        Entry{DType::kI32, "I32", 4},
    Entry{DType::kU32, "U32", 4},   Entry{DType::kI64, "I64", 8},        Entry{DType::kU64, "U64", 8},
    Entry{DType::kF16, "F16", 2},   Entry{DType::kBF16, "BF16", 2},      Entry{DType::kF32, "F32", 4},
    Entry{DType::kF64, "F64", 8},   Entry{DType::kF8E4M3, "F8_E4M3", 1}, Entry{DType::kF8E5M2, "F8_E5M2", 1},
};

const Entry& entry(DType dtype) {
  for (const Entry& e : kEntries)
    if (e.dtype == dtype) return e;
  throw InternalError("unknown DType");
}

}  // namespace

std::size_t dtype_size(DType dtype) { return entry(dtype).size; }

std::string_view safetensors_name(DType dtype) { return entry(dtype).name; }

std::optional<DType> dtype_from_safetensors_name(std::string_view name) {
  for (const Entry& e : kEntries)
    if (e.name == name) return e.dtype;
  return std::nullopt;
}

std::string_view to_string(ComputeDType dtype) { return dtype == ComputeDType::kFp32 ? "fp32" : "bf16"; }

std::optional<ComputeDType> compute_dtype_from_string(std::string_view name) {
  if (name == "fp32" || name == "float32") return ComputeDType::kFp32;
  if (name == "bf16" || name == "bfloat16") return ComputeDType::kBf16;
  return std::nullopt;
}

}  // namespace adept
