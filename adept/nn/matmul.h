// Matrix products: ATen's, but on the CPU in bf16 the kernel of adept/kernels where the processor has no bf16 products
// of its own. There ATen's are several times slower than fp32; the kernel reads bf16 and multiplies in fp32.
//
// Legend: M rows, N columns, K depth.
#pragma once

#include <ATen/core/Tensor.h>

namespace adept::nn {

/// Whether a product with `tensor` takes the kernel.
bool has_matmul_kernel(const at::Tensor& tensor);

/// out (M, N) = a (M, K) b (K, N); all of one type. Strides of a and b may be any, those of `out` are of a matrix whose
/// rows are contiguous.
void matmul_out(at::Tensor& out, const at::Tensor& a, const at::Tensor& b);

/// a (M, K) b (K, N) + bias (N), which may be undefined: (M, N). Rounded once. By the kernel.
at::Tensor matmul_by_kernel(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {});

/// sum (M, N) fp32 += a (M, K) b (K, N); by the kernel.
void add_matmul_by_kernel(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b);

}  // namespace adept::nn
