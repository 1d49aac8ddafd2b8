#include "adept/model/torch_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>

#include <cstring>

#include "adept/core/error.h"

namespace adept::model {

at::ScalarType to_scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return at::kBool;
    case DType::kU8:
      return at::kByte;
    case DType::kI8:
      return at::kChar;
    case DType::kI16:
      return at::kShort;
    case DType::kU16:
      return at::kUInt16;
    case DType::kI32:
      return at::kInt;
    case DType::kU32:
      return at::kUInt32;
    case DType::kI64:
      return at::kLong;
    case DType::kU64:
      return at::kUInt64;
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF32:
      return at::kFloat;
    case DType::kF64:
      return at::kDouble;
    case DType::kF8E4M3:
      return at::kFloat8_e4m3fn;
    case DType::kF8E5M2:
      return at::kFloat8_e5m2;
  }
  throw DataError("element type {} is not implemented", safetensors_name(dtype));
}

at::ScalarType to_scalar_type(ComputeDType dtype) { return dtype == ComputeDType::kBf16 ? at::kBFloat16 : at::kFloat; }

DType to_dtype(at::ScalarType type) {
  switch (type) {
    case at::kBool:
      return DType::kBool;
    case at::kByte:
      return DType::kU8;
    case at::kChar:
      return DType::kI8;
    case at::kShort:
      return DType::kI16;
    case at::kUInt16:
      return DType::kU16;
    case at::kInt:
      return DType::kI32;
    case at::kUInt32:
      return DType::kU32;
    case at::kLong:
      return DType::kI64;
    case at::kUInt64:
      return DType::kU64;
    case at::kHalf:
      return DType::kF16;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kFloat:
      return DType::kF32;
    case at::kDouble:
      return DType::kF64;
    case at::kFloat8_e4m3fn:
      return DType::kF8E4M3;
    case at::kFloat8_e5m2:
      return DType::kF8E5M2;
    default:
      ADEPT_CHECK(false, "no safetensors type for {}", at::toString(type));
  }
}

at::Tensor to_type(const at::Tensor& tensor, at::ScalarType type, const std::function<std::string()>& name,
                   std::string_view advice) {
  at::Tensor result = tensor.to(type);
  const bool is_narrower = type == at::kHalf ? tensor.scalar_type() != at::kHalf
                                             : type == at::kBFloat16 && tensor.scalar_type() == at::kFloat;
  if (!is_narrower || at::isfinite(result).all().item<bool>()) return result;
  const at::Tensor lost = at::isfinite(tensor).logical_and(at::isfinite(result).logical_not()).flatten();
  if (!lost.any().item<bool>()) return result;  // what was not finite before is another matter
  const auto index = lost.to(at::kByte).argmax().item<std::int64_t>();
  throw DataError("{} has the value {} at element {}, beyond the range of {}. {}", name(),
                  tensor.flatten()[index].item<float>(), index, type == at::kHalf ? "fp16" : "bf16", advice);
}

at::Tensor as_tensor(const io::TensorView& view, std::shared_ptr<const void> owner) {
  const auto options = at::TensorOptions(to_scalar_type(view.dtype));
  if (view.data.empty()) return at::empty(view.shape, options);
  if (!view.is_aligned()) {
    at::Tensor copy = at::empty(view.shape, options);
    std::memcpy(copy.data_ptr(), view.data.data(), view.data.size());
    return copy;
  }
  void* data = const_cast<std::byte*>(view.data.data());  // ATen has no read-only tensors
  return at::from_blob(data, view.shape, [owner = std::move(owner)](void*) {}, options);
}

io::TensorView as_view(std::string name, const at::Tensor& tensor) {
  ADEPT_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(), "{} is not a contiguous CPU tensor", name);
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(tensor.const_data_ptr()),
                                         static_cast<std::size_t>(tensor.nbytes()));
  return {std::move(name), to_dtype(tensor.scalar_type()), tensor.sizes().vec(), bytes};
}

}  // namespace adept::model
