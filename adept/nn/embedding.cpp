#include "adept/nn/embedding.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>

#include "adept/nn/cross_entropy.h"
#include "adept/nn/kernels.h"
#include "adept/nn/linear.h"
#include "adept/nn/reference.h"

namespace adept::nn {

at::Tensor embedding(const TokenIds& ids, const at::Tensor& table, at::ScalarType dtype, const EmbeddingScale& scale,
                     const TrainedRows& trained) {
  const bool is_reference = active_kernels() == Kernels::kReference;
  at::Tensor rows = (is_reference ? reference::embedding(ids.values, merged_rows(table, table.scalar_type(), trained))
                                  : at::embedding(table, ids.values))
                        .to(dtype);
  if (!is_reference && trained.any()) rows = with_trained(rows, ids.host, trained);
  if (scale.factor == 1) return rows;
  return scale.is_rounded ? at::mul(rows, at::scalar_tensor(scale.factor, rows.options()))
                          : at::mul(rows, scale.factor);
}

at::Tensor Embedding::rows(const TokenIds& ids, at::ScalarType dtype, const EmbeddingScale& scale) const {
  return embedding(ids.to(weight.device()), weight, dtype, scale, trained);
}

at::Tensor Embedding::logits(const at::Tensor& hidden, double soft_cap) const {
  at::Tensor logits = linear(hidden, weight);
  if (trained.any()) logits = logits.index_copy(-1, trained.ids.values, linear(hidden, trained.values));
  return soft_capped(logits, soft_cap);
}

at::Tensor Embedding::loss_sum(const at::Tensor& hidden, const Targets& targets, double soft_cap,
                               at::Tensor* token_losses) const {
  return linear_cross_entropy(hidden, weight, targets.to(weight.device()), soft_cap, token_losses, trained);
}

at::Tensor Embedding::token_losses(const at::Tensor& hidden, const Targets& targets, double soft_cap) const {
  return linear_cross_entropy_per_token(hidden, weight, targets.to(weight.device()), soft_cap, trained);
}

}  // namespace adept::nn
