// How far two correct computations may be apart, by element type. One table for every unit test.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

namespace adept::test {

/// Errors are relative to the largest magnitude in the expected tensor.
struct Tolerance {
  double values;     ///< of an operation's result
  double gradients;  ///< of a gradient
};

/// fp64: finite differences of step 1e-6 are good to about 1e-8. fp32: a few thousand additions at 6e-8 each. bf16:
/// results are rounded to 8 bits (4e-3) wherever an operation ends, and fused code ends fewer of them than plain code.
inline Tolerance tolerance(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return {1e-10, 1e-6};
    case at::kFloat:
      return {2e-5, 5e-5};
    case at::kBFloat16:
      return {1.6e-2, 3e-2};
    default:
      return {0, 0};
  }
}

/// Byte equality, which tells 0 from -0 and takes a NaN for itself.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const at::Tensor x = a.detach().cpu().contiguous(), y = b.detach().cpu().contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

/// Largest error relative to the largest expected magnitude; infinite if anything is NaN or shapes differ.
inline double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  if (!found.defined() || found.sizes() != expected.sizes()) return std::numeric_limits<double>::infinity();
  if (expected.numel() == 0) return 0;
  const at::Tensor difference = (found.detach().to(at::kDouble) - expected.detach().to(at::kDouble)).abs().max();
  const double scale = expected.detach().to(at::kDouble).abs().max().item<double>();
  const double error = difference.item<double>() / (scale > 0 ? scale : 1.0);
  return error == error ? error : std::numeric_limits<double>::infinity();
}

/// NaN-safe: fails unless the error is at most the tolerance.
inline ::testing::AssertionResult is_close(const at::Tensor& found, const at::Tensor& expected, double limit) {
  const double error = relative_error(found, expected);
  if (!(error <= limit)) return ::testing::AssertionFailure() << "relative error " << error << ", at most " << limit;
  return ::testing::AssertionSuccess();
}

}  // namespace adept::test
