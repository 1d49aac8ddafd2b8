#pragma once

namespace adept::kernels {

/// What the elements of tensors are; all arithmetic is in fp32.
enum class Element { kFloat, kBFloat16 };

}  // namespace adept::kernels
