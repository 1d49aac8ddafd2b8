// Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467).
#pragma once

#include <ATen/core/Tensor.h>

namespace adept::nn {

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension: x (..., D), weight (D), result (..., D) in x's dtype.
/// As in transformers, x is normalised in fp32 (fp64 for fp64), rounded to its dtype, and then scaled by the weight.
/// Its gradient saves x and one number per row.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// A sum, and its norm.
struct NormedSum {
  at::Tensor sum, normed;
};

/// x + y and rms_norm(x + y, weight, eps), for x and y (..., D): a layer's addition to the residual stream and the norm
/// that reads it, in one pass over memory each way. The same bits as the two operations one after the other. Its
/// gradient saves the sum and one number per row.
NormedSum add_rms_norm(const at::Tensor& x, const at::Tensor& y, const at::Tensor& weight, double eps);

}  // namespace adept::nn
