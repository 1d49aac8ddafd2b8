#include "adept/model/kv_cache.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "adept/core/error.h"

namespace adept::model {
namespace {

constexpr std::int64_t kTokens = 2;  // the dimension of tokens in (B, K, S, E)

/// A buffer of at least `needed` tokens that starts with the first `length` tokens of `old`.
void grow(at::Tensor& buffer, const at::Tensor& like, std::int64_t length, std::int64_t needed) {
  if (buffer.defined() && buffer.size(kTokens) >= needed) return;
  constexpr std::int64_t kSmallest = 256;
  const std::int64_t capacity = std::max({kSmallest, needed, buffer.defined() ? 2 * buffer.size(kTokens) : 0});
  at::Tensor larger = at::empty({like.size(0), like.size(1), capacity, like.size(3)}, like.options());
  if (length > 0) larger.narrow(kTokens, 0, length).copy_(buffer.narrow(kTokens, 0, length));
  buffer = larger;
}

}  // namespace

std::int64_t KeyValueCache::length(std::int64_t layer) const {
  return layers_.at(static_cast<std::size_t>(layer)).length;
}

std::pair<at::Tensor, at::Tensor> KeyValueCache::append(std::int64_t layer, const at::Tensor& k, const at::Tensor& v,
                                                        std::int64_t window) {
  Layer& entry = layers_.at(static_cast<std::size_t>(layer));
  const std::int64_t added = k.size(kTokens), total = entry.length + added;
  grow(entry.keys, k, entry.length, total);
  grow(entry.values, v, entry.length, total);
  entry.keys.narrow(kTokens, entry.length, added).copy_(k);
  entry.values.narrow(kTokens, entry.length, added).copy_(v);
  entry.length = total;
  const std::int64_t visible = window > 0 ? std::min(total, window - 1 + added) : total;
  return {entry.keys.narrow(kTokens, total - visible, visible), entry.values.narrow(kTokens, total - visible, visible)};
}

}  // namespace adept::model
