// Which elements of a tensor each process of a job updates (ZeRO-1, arXiv 1910.02054).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "adept/dist/process_group.h"

namespace adept::optim {

/// One process of a job.
struct RankOf {
  int rank = 0;
  int size = 1;
};

/// A tensor whose elements, as they follow one another, are divided over the ranks of a job.
struct Shard {
  std::vector<std::int64_t> shape;   ///< of the whole tensor
  std::vector<std::int64_t> bounds;  ///< rank r has the elements bounds[r] .. bounds[r + 1] - 1
  int rank = 0;                      ///< of this process

  std::int64_t begin() const { return bounds[static_cast<std::size_t>(rank)]; }
  std::int64_t end() const { return bounds[static_cast<std::size_t>(rank) + 1]; }
  /// Elements that this rank has; it may have none.
  std::int64_t size() const { return end() - begin(); }
  /// Those of a rank in a whole, contiguous tensor: (n), a view.
  at::Tensor of(const at::Tensor& whole, int of_rank) const;
  at::Tensor of(const at::Tensor& whole) const { return of(whole, rank); }
};

/// Ranks have about equally many rows, in order. Between two ranks is a multiple of 16 elements, as long as the rows
/// allow it: the kernels of a whole tensor and of its parts then compute every element in the same way.
Shard row_shard(at::IntArrayRef shape, const RankOf& process);

/// Of all ranks' parts, gathered at once; more of a tensor that is larger.
inline constexpr std::int64_t kGatheredBytes = std::int64_t{64} << 20;

/// A whole tensor, of which this rank has its part.
struct Gathered {
  at::Tensor whole;
  const Shard* shard = nullptr;
};

/// Makes tensors of one dtype whole on every rank.
void gather(std::span<const Gathered> tensors, dist::ProcessGroup& group);
/// Bytes of all ranks' parts in the largest of its gatherings by so many ranks.
std::int64_t most_gathered_bytes(std::span<const Gathered> tensors, std::int64_t ranks);

}  // namespace adept::optim
