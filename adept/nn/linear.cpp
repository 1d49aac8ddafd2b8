#include "adept/nn/linear.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>

namespace adept::nn {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table) { return at::embedding(table, ids); }

}  // namespace adept::nn
