// Element types by the names of the safetensors format and of the configuration.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace adept {

/// Element type of a stored tensor. https://github.com/huggingface/safetensors#format
enum class DType { kBool, kU8, kI8, kI16, kU16, kI32, kU32, kI64, kU64, kF16, kBF16, kF32, kF64, kF8E4M3, kF8E5M2 };

/// Bytes of one element.
std::size_t dtype_size(DType dtype);
/// The name in a safetensors header: "F32", "BF16", "F8_E4M3" ...
std::string_view safetensors_name(DType dtype);
/// The inverse of safetensors_name; nothing for an unknown name.
std::optional<DType> dtype_from_safetensors_name(std::string_view name);

/// Compute dtype of a model.
enum class ComputeDType { kFp32, kBf16 };

/// "fp32" or "bf16".
std::string_view to_string(ComputeDType dtype);
/// Accepts fp32, float32, bf16, bfloat16; nothing otherwise.
std::optional<ComputeDType> compute_dtype_from_string(std::string_view name);

}  // namespace adept
