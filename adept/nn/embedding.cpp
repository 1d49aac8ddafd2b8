#include "adept/nn/embedding.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>

#include "adept/nn/cross_entropy.h"
#include "adept/nn/kernels.h"
#include "adept/nn/linear.h"
#include "adept/nn/reference.h"

namespace adept::nn {

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table, at::ScalarType dtype,
                     const EmbeddingScale& scale) {
  const bool is_reference = active_kernels() == Kernels::kReference;
  const at::Tensor rows = (is_reference ? reference::embedding(ids, table) : at::embedding(table, ids)).to(dtype);
  if (scale.factor == 1) return rows;
  return scale.is_rounded ? at::mul(rows, at::scalar_tensor(scale.factor, rows.options()))
                          : at::mul(rows, scale.factor);
}

at::Tensor Embedding::rows(const at::Tensor& ids, at::ScalarType dtype, const EmbeddingScale& scale) const {
  return embedding(ids.to(weight.device()), weight, dtype, scale);
}

at::Tensor Embedding::logits(const at::Tensor& hidden, double soft_cap) const {
  return soft_capped(linear(hidden, weight), soft_cap);
}

at::Tensor Embedding::loss_sum(const at::Tensor& hidden, const at::Tensor& targets, double soft_cap,
                               at::Tensor* token_losses) const {
  return linear_cross_entropy(hidden, weight, targets.to(weight.device()), soft_cap, token_losses);
}

at::Tensor Embedding::token_losses(const at::Tensor& hidden, const at::Tensor& targets, double soft_cap) const {
  return linear_cross_entropy_per_token(hidden, weight, targets.to(weight.device()), soft_cap);
}

}  // namespace adept::nn
