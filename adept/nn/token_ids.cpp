#include "adept/nn/token_ids.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/nonzero.h>

#include <algorithm>
#include <span>

#include "adept/core/error.h"
#include "adept/nn/transfer.h"

namespace adept::nn {

TokenIds::TokenIds(const at::Tensor& ids) : TokenIds(ids.to(at::kCPU), ids.device()) {}

TokenIds::TokenIds(const at::Tensor& ids, at::Device device) : values(to_device(ids, device)), host(ids) {
  ADEPT_CHECK(ids.scalar_type() == at::kLong, "ids must be int64");
  if (ids.numel() == 0) return;
  const at::Tensor flat = ids.contiguous();
  const std::span all(flat.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(flat.numel()));
  const auto [low, high] = std::ranges::minmax(all);
  least = low;
  most = high;
}

TokenIds TokenIds::to(at::Device device) const {
  TokenIds moved = *this;
  if (values.device() != device) moved.values = to_device(host, device);
  return moved;
}

Targets::Targets(const at::Tensor& targets) : Targets(targets.to(at::kCPU), targets.device()) {}

Targets::Targets(const at::Tensor& targets, at::Device device) : values(to_device(targets, device)) {
  const at::Tensor flat = targets.reshape({-1}), with_target = flat.ne(kIgnoreIndex).nonzero().squeeze(1);
  const bool all = with_target.size(0) == flat.size(0);
  scored = TokenIds(all ? flat : flat.index_select(0, with_target), device);
  if (!all) positions = to_device(with_target, device);
}

Targets Targets::to(at::Device device) const {
  return values.device() == device ? *this : Targets(values.to(at::kCPU), device);
}

}  // namespace adept::nn
