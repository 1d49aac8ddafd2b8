#include "adept/optim/row_shard.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

namespace adept::optim {
namespace {

constexpr std::int64_t kVector = 16;  // fp32 elements of the widest instruction

/// Elements of the largest part of `tensor`.
std::int64_t largest_part(const at::Tensor& tensor, int size) {
  std::int64_t rows = 0;
  for (int rank = 0; rank < size; ++rank) rows = std::max(rows, row_shard(tensor, rank, size).size());
  return rows * (tensor.numel() / tensor.size(0));
}

/// Calls `copy` with the rows of `rank` in each tensor and their place in `buffer`, of the same shape.
template <typename Copy>
void for_each_part(std::span<const at::Tensor> tensors, const at::Tensor& buffer, int rank, int size,
                   const Copy& copy) {
  std::int64_t offset = 0;
  for (const at::Tensor& tensor : tensors) {
    const at::Tensor rows = row_shard(tensor, rank, size).of(tensor);
    copy(rows, buffer.slice(0, offset, offset + rows.numel()).view(rows.sizes()));
    offset += largest_part(tensor, size);
  }
}

void gather_at_once(std::span<const at::Tensor> tensors, dist::ProcessGroup& group) {
  const int size = group.size();
  std::int64_t elements = 0;
  for (const at::Tensor& tensor : tensors) elements += largest_part(tensor, size);
  const at::Tensor part = at::empty({elements}, tensors.front().options());
  const at::Tensor whole = at::empty({size, elements}, tensors.front().options());
  for_each_part(tensors, part, group.rank(), size,
                [](const at::Tensor& rows, const at::Tensor& place) { place.copy_(rows); });
  group.all_gather(whole, part);
  for (int rank = 0; rank < size; ++rank)
    if (rank != group.rank())
      for_each_part(tensors, whole[rank], rank, size,
                    [](const at::Tensor& rows, const at::Tensor& place) { rows.copy_(place); });
}

}  // namespace

RowShard row_shard(const at::Tensor& tensor, int rank, int size) {
  const std::int64_t rows = tensor.size(0);
  if (size == 1 || rows == 0) return {.begin = 0, .end = rows};
  const std::int64_t multiple = kVector / std::gcd(tensor.numel() / rows, kVector);
  const std::int64_t blocks = (rows + multiple - 1) / multiple;
  const auto bound = [&](int r) { return std::min(rows, blocks * r / size * multiple); };
  return {.begin = bound(rank), .end = bound(rank + 1)};
}

void gather_rows(std::span<const at::Tensor> tensors, dist::ProcessGroup& group) {
  if (group.size() == 1) return;
  const at::NoGradGuard no_grad;
  for (std::size_t begin = 0, end = 0; begin < tensors.size(); begin = end) {
    std::int64_t bytes = 0;
    do {
      bytes += largest_part(tensors[end], group.size()) * group.size() *
               static_cast<std::int64_t>(tensors[end].element_size());
      ++end;
    } while (end < tensors.size() && bytes < kGatheredBytes);
    gather_at_once(tensors.subspan(begin, end - begin), group);
  }
}

}  // namespace adept::optim
