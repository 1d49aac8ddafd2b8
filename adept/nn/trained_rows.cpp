#include "adept/nn/trained_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isin.h>
#include <ATen/ops/searchsorted.h>

namespace adept::nn {

at::Tensor TrainedRows::contains(const at::Tensor& tokens) const { return at::isin(tokens.to(ids.device()), ids); }

TrainedRows TrainedRows::detached() const { return any() ? TrainedRows{ids, values.detach()} : TrainedRows{}; }

TrainedRows TrainedRows::detached(at::ScalarType type) const {
  return any() ? TrainedRows{ids, values.detach().to(type)} : TrainedRows{};
}

TrainedPositions find_trained(const at::Tensor& tokens, const TrainedRows& trained) {
  const at::Tensor positions = trained.contains(tokens).nonzero().squeeze(1);
  return {positions, at::searchsorted(trained.ids, tokens.index_select(0, positions))};
}

at::Tensor with_trained(const at::Tensor& rows, const at::Tensor& tokens, const TrainedRows& trained) {
  const auto [positions, slots] = find_trained(tokens.reshape({-1}), trained);
  const at::Tensor values = trained.values.index_select(0, slots).to(rows.scalar_type());
  return rows.reshape({-1, rows.size(-1)}).index_copy(0, positions, values).view(rows.sizes());
}

at::Tensor merged_rows(const at::Tensor& matrix, at::ScalarType type, const TrainedRows& trained) {
  const at::Tensor whole = matrix.to(type);
  return trained.any() ? whole.index_copy(0, trained.ids, trained.values.to(type)) : whole;
}

}  // namespace adept::nn
