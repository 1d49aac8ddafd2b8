// Ids of tokens on a device, with what the host has to know of them: it is found once, where a batch is made, so that
// no operation waits for the device to read it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace adept::nn {

/// Positions with this target carry no loss.
inline constexpr std::int64_t kIgnoreIndex = -100;

/// What a pass reads.
struct TokenIds {
  at::Tensor values{};     ///< int64, any shape, on the device of a pass
  at::Tensor host{};       ///< the same on the CPU; shares the memory of `values` there
  std::int64_t least = 0;  ///< of all ids; 0 where there are none
  std::int64_t most = -1;  ///< -1 where there are none

  TokenIds() = default;
  /// Ids on any device. Those of a device are read, which waits for it.
  TokenIds(const at::Tensor& ids);  // NOLINT(google-explicit-constructor)
  /// Ids on the CPU, sent to `device`.
  TokenIds(const at::Tensor& ids, at::Device device);

  bool defined() const { return values.defined(); }
  TokenIds to(at::Device device) const;
};

/// The token that each position is to predict.
struct Targets {
  at::Tensor values{};     ///< int64, any shape; kIgnoreIndex where nothing is predicted
  at::Tensor positions{};  ///< (n) ascending indices of the others in the flattened values; undefined: they are all
  TokenIds scored{};       ///< (n), the targets at these positions

  Targets() = default;
  /// As of TokenIds.
  Targets(const at::Tensor& targets);  // NOLINT(google-explicit-constructor)
  Targets(const at::Tensor& targets, at::Device device);

  std::int64_t count() const { return scored.values.numel(); }
  Targets to(at::Device device) const;
};

}  // namespace adept::nn
