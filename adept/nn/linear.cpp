#include "adept/nn/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>

#include "adept/nn/kernels.h"
#include "adept/nn/reference.h"

namespace adept::nn {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (active_kernels() == Kernels::kReference) return reference::linear(x, weight, bias);
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const LoraAdapter& adapter) {
  const at::Tensor y = linear(x, weight, bias);
  if (!adapter.a.defined()) return y;
  const bool drops = adapter.dropout > 0 && at::GradMode::is_enabled();
  const at::Tensor input = drops ? at::dropout(x, adapter.dropout, /*train=*/true) : x;
  return at::add(y, at::linear(at::linear(input, adapter.a), adapter.b), adapter.scale);
}

at::Tensor merged_weight(const at::Tensor& weight, const LoraAdapter& adapter) {
  return at::addmm(weight.to(at::kFloat), adapter.b.to(at::kFloat), adapter.a.to(at::kFloat), 1.0, adapter.scale);
}

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table) {
  if (active_kernels() == Kernels::kReference) return reference::embedding(ids, table);
  return at::embedding(table, ids);
}

}  // namespace adept::nn
