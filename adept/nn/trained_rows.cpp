#include "adept/nn/trained_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isin.h>
#include <ATen/ops/searchsorted.h>

#include "adept/nn/transfer.h"

namespace adept::nn {

bool TrainedRows::contain_any(const TokenIds& tokens) const {
  return any() && at::isin(tokens.host, ids.host).any().item<bool>();
}

TrainedRows TrainedRows::detached() const { return any() ? TrainedRows{ids, values.detach()} : TrainedRows{}; }

TrainedRows TrainedRows::detached(at::ScalarType type) const {
  return any() ? TrainedRows{ids, values.detach().to(type)} : TrainedRows{};
}

TrainedPositions find_trained(const at::Tensor& tokens, const TrainedRows& trained) {
  const at::Tensor& rows = trained.ids.host;
  const at::Tensor positions = at::isin(tokens, rows).nonzero().squeeze(1);
  const at::Tensor slots = at::searchsorted(rows, tokens.index_select(0, positions));
  const at::Device device = trained.ids.values.device();
  return {to_device(positions, device), to_device(slots, device)};
}

at::Tensor with_trained(const at::Tensor& rows, const at::Tensor& tokens, const TrainedRows& trained) {
  const auto [positions, slots] = find_trained(tokens.reshape({-1}), trained);
  const at::Tensor values = trained.values.index_select(0, slots).to(rows.scalar_type());
  return rows.reshape({-1, rows.size(-1)}).index_copy(0, positions, values).view(rows.sizes());
}

at::Tensor merged_rows(const at::Tensor& matrix, at::ScalarType type, const TrainedRows& trained) {
  const at::Tensor whole = matrix.to(type);
  return trained.any() ? whole.index_copy(0, trained.ids.values, trained.values.to(type)) : whole;
}

}  // namespace adept::nn
