// The gate of the feed-forward block (Shazeer, arXiv 2002.05202).
#pragma once

#include <ATen/core/Tensor.h>

namespace adept::nn {

/// silu(gate) * up, elementwise. The gradient saves the two inputs only.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

}  // namespace adept::nn
