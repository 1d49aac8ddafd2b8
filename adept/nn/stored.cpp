#include "adept/nn/stored.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>

namespace adept::nn {

at::Tensor leaf_of(const at::Tensor& stored, at::ScalarType type) {
  return stored.to(type).detach().set_requires_grad(true);
}

at::Tensor leaf_of_master(const at::Tensor& master, at::ScalarType type) {
  const bool is_read = type == at::kFloat || master.dim() == 2;
  return trained_leaf_of(master, is_read ? at::kFloat : type);
}

at::Tensor trained_leaf_of(const at::Tensor& values, at::ScalarType type) {
  at::Tensor leaf = leaf_of(values, type);
  leaf.set_grad_dtype(at::kFloat);
  return leaf;
}

at::Tensor effect_of(const at::Tensor& stored, double offset) {
  const at::Tensor values = stored.detach().to(at::kFloat);
  return offset == 0 ? values : values + offset;
}

bool has_effect(const at::Tensor& stored, double offset) { return stored.detach().ne(-offset).any().item<bool>(); }

at::Tensor scaled_effect(const at::Tensor& stored, double alpha, double offset, std::optional<at::ScalarType> type) {
  const at::ScalarType result = type.value_or(stored.scalar_type());
  const at::Tensor values = stored.to(result == at::kDouble ? at::kDouble : at::kFloat);
  return (offset == 0 ? values * alpha : (values + offset) * alpha - offset).to(result);
}

at::Tensor without_effect(const at::Tensor& stored, double offset, at::ScalarType type) {
  return at::full_like(stored.detach(), 0 - offset, stored.options().dtype(type));
}

}  // namespace adept::nn
