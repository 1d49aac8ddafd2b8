// Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467).
#pragma once

#include <ATen/core/Tensor.h>

#include "adept/kernels/rows.h"

namespace adept::nn {

using kernels::GainConvention;

/// x / sqrt(mean(x^2) + eps) over the last dimension, scaled by the weight: x (..., D), weight (D) of x's dtype, result
/// (..., D) in x's dtype. As in transformers, x is normalised in fp32 (fp64 for fp64); where it is rounded and what the
/// weight stands for is the convention; but on a GPU ATen's fused norm rounds once, except in bf16 with kOnePlus. Its
/// gradient saves x and one number per row.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                    GainConvention gain = GainConvention::kRounded);

/// What a model whose norms have this weight computes in: gains are stored in no other type.
inline at::ScalarType compute_type(const at::Tensor& weight) { return weight.scalar_type(); }

/// A sum, and its norm.
struct NormedSum {
  at::Tensor sum, normed;
};

/// x + y and rms_norm(x + y, weight, eps, gain), for x and y (..., D): a layer's addition to the residual stream and
/// the norm that reads it, in one pass over memory each way. The same bits as the two operations one after the other.
/// Its gradient saves the sum and one number per row.
NormedSum add_rms_norm(const at::Tensor& x, const at::Tensor& y, const at::Tensor& weight, double eps,
                       GainConvention gain = GainConvention::kRounded);

}  // namespace adept::nn
