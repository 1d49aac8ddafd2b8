// Between ATen tensors and the bytes of weight files.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "adept/core/dtype.h"
#include "adept/io/safetensors.h"

namespace adept::model {

/// Throws DataError for an element type that ATen lacks.
at::ScalarType to_scalar_type(DType dtype);
at::ScalarType to_scalar_type(ComputeDType dtype);
/// Throws InternalError for a type that safetensors lacks.
DType to_dtype(at::ScalarType type);

/// `tensor` as this floating-point type; the tensor itself if it has this type. Throws DataError for a finite value out
/// of the type's range; `name` describes the tensor, `advice` says what to do ("Set ... .").
at::Tensor to_type(const at::Tensor& tensor, at::ScalarType type, const std::function<std::string()>& name,
                   std::string_view advice);

/// A tensor over the view's bytes, without a copy; `owner` (the mapping) lives as long as the tensor. The bytes are
/// read-only: never write into the result. Bytes that are not aligned for their type are copied.
at::Tensor as_tensor(const io::TensorView& view, std::shared_ptr<const void> owner);

/// A view of a contiguous CPU tensor's bytes, valid while the tensor lives.
io::TensorView as_view(std::string name, const at::Tensor& tensor);

}  // namespace adept::model
