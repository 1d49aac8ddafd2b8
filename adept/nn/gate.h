// The gate of the feed-forward block (Shazeer, "GLU variants improve Transformer", arXiv 2002.05202).
#pragma once

#include <ATen/core/Tensor.h>

#include "adept/kernels/rows.h"

namespace adept::nn {

using kernels::Activation;

/// activation(gate) * up, elementwise, in fp32 and rounded once: SwiGLU with kSilu, GeGLU with kGeluTanh. The gradient
/// saves the two inputs only. Differentiable once.
at::Tensor gated(const at::Tensor& gate, const at::Tensor& up, Activation activation);

}  // namespace adept::nn
