#include "adept/nn/matmul.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "adept/core/cpu.h"
#include "adept/core/error.h"
#include "adept/kernels/instruction_set.h"
#include "adept/nn/kernels.h"

namespace adept::nn {
namespace {

constexpr std::int64_t kMostDepth = 2048;

// A set that was asked for is one of ours.
bool processor_multiplies_bf16() {
  static const bool does = !kernels::instruction_set_was_chosen() && cpu_has_native_bf16();
  return does;
}

bool has_unit_stride(const at::Tensor& t) { return t.stride(0) == 1 || t.stride(1) == 1; }
at::Tensor with_unit_stride(const at::Tensor& t) { return has_unit_stride(t) ? t : t.contiguous(); }

/// The arguments of a b but for c; the tensors must live as long. `wide` is fp32.
kernels::Matmul arguments_of(const at::Tensor& wide, const at::Tensor& b, std::int64_t columns) {
  kernels::Matmul m = {.rows = wide.size(0),
                       .columns = columns,
                       .depth = wide.size(1),
                       .a = wide.const_data_ptr<float>(),
                       .a_row = wide.stride(0),
                       .a_depth = wide.stride(1),
                       .b_element = element_of(b),
                       .b = b.const_data_ptr(),
                       .b_depth = b.stride(0),
                       .b_column = b.stride(1)};
  kernels::cut_for_cache(m);
  return m;
}

void multiply(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, bool accumulate, at::Tensor& c) {
  ADEPT_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) && c.size(0) == a.size(0) &&
                  c.size(1) == b.size(1) && c.stride(1) == 1 && a.size(1) > 0,
              "a product of {} x {} and {} x {}", a.size(0), a.size(1), b.size(0), b.size(1));
  if (c.numel() == 0) return;
  const at::Tensor wide = with_unit_stride(a).to(at::kFloat), right = with_unit_stride(b);
  const at::Tensor added = bias.defined() ? bias.contiguous() : bias;
  kernels::Matmul m = arguments_of(wide, right, c.size(1));
  m.c_element = element_of(c);
  m.c = c.data_ptr();
  m.c_row = c.stride(0);
  m.bias = added.defined() ? added.const_data_ptr() : nullptr;
  m.accumulate = accumulate;
  kernels::cut_for_threads(m, at::get_num_threads());
  for_each_task("matmul", kernels::num_tasks(m), [&](std::int64_t task) {
    kernels::functions().matmul(m, task, task + 1, thread_workspace(kernels::MatmulWorkspace::size(m)));
  });
}

/// sum += a b, a part of the depth at a time: a panel of b is to fit the second-level cache.
void add_product(const at::Tensor& a, const at::Tensor& b, at::Tensor& sum) {
  for (std::int64_t begin = 0; begin < a.size(1); begin += kMostDepth) {
    const std::int64_t count = std::min(kMostDepth, a.size(1) - begin);
    multiply(a.narrow(1, begin, count), b.narrow(0, begin, count), {}, /*accumulate=*/true, sum);
  }
}

void product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, at::Tensor& c) {
  if (a.size(1) <= kMostDepth) return multiply(a, b, bias, /*accumulate=*/false, c);
  at::Tensor sum = at::zeros(c.sizes(), c.options().dtype(at::kFloat));
  if (bias.defined()) sum.add_(bias);
  add_product(a, b, sum);
  c.copy_(sum);
}

}  // namespace

bool has_matmul_kernel(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kBFloat16 && !processor_multiplies_bf16();
}

void matmul_out(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (has_matmul_kernel(out) && a.size(1) > 0)
    product(a, b, {}, out);
  else
    at::mm_out(out, a, b);
}

at::Tensor matmul_by_kernel(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  at::Tensor c = at::empty({a.size(0), b.size(1)}, a.options());
  product(a, b, bias, c);
  return c;
}

void add_matmul_by_kernel(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) { add_product(a, b, sum); }

}  // namespace adept::nn
