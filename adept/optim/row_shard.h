// Which rows of a tensor each process of a job updates.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "adept/dist/process_group.h"

namespace adept::optim {

/// Rows begin .. end-1 of a tensor, those of one rank. Ranks have about equally many, in order; a rank may have none.
struct RowShard {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  std::int64_t size() const { return end - begin; }
  at::Tensor of(const at::Tensor& tensor) const { return tensor.slice(0, begin, end); }
};

/// The rows of `rank`. Between two ranks is a multiple of 16 elements, as long as the rows allow it: the kernels of a
/// whole tensor and of its parts then compute every element in the same way.
RowShard row_shard(const at::Tensor& tensor, int rank, int size);

/// Of all ranks' rows, gathered at once; more of a tensor that is larger.
inline constexpr std::int64_t kGatheredBytes = std::int64_t{64} << 20;

/// Makes `tensors`, of one dtype, whole on every rank, from the rows that each has.
void gather_rows(std::span<const at::Tensor> tensors, dist::ProcessGroup& group);

}  // namespace adept::optim
