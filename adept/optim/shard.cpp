#include "adept/optim/shard.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <numeric>

#include "adept/core/error.h"

namespace adept::optim {
namespace {

constexpr std::int64_t kVector = 16;  // fp32 elements of the widest instruction

/// Elements of the largest part.
std::int64_t largest_part(const Shard& shard) {
  std::int64_t most = 0;
  for (std::size_t rank = 0; rank + 1 < shard.bounds.size(); ++rank)
    most = std::max(most, shard.bounds[rank + 1] - shard.bounds[rank]);
  return most;
}

/// Calls `copy` with the part of `rank` in each tensor and its place in `buffer`.
template <typename Copy>
void for_each_part(std::span<const Gathered> tensors, const at::Tensor& buffer, int rank, const Copy& copy) {
  std::int64_t offset = 0;
  for (const Gathered& tensor : tensors) {
    const at::Tensor part = tensor.shard->of(tensor.whole, rank);
    copy(part, buffer.slice(0, offset, offset + part.numel()));
    offset += largest_part(*tensor.shard);
  }
}

// The end of the tensors from `begin` on that are gathered at once.
struct Gathering {
  std::size_t end = 0;
  std::int64_t bytes = 0;
};

Gathering gathering_from(std::span<const Gathered> tensors, std::size_t begin, std::int64_t ranks) {
  Gathering gathering{.end = begin};
  while (gathering.end < tensors.size() && gathering.bytes < kGatheredBytes) {
    const Gathered& tensor = tensors[gathering.end++];
    gathering.bytes += largest_part(*tensor.shard) * ranks * static_cast<std::int64_t>(tensor.whole.element_size());
  }
  return gathering;
}

void gather_at_once(std::span<const Gathered> tensors, dist::ProcessGroup& group) {
  std::int64_t elements = 0;
  for (const Gathered& tensor : tensors) elements += largest_part(*tensor.shard);
  const at::Tensor part = at::empty({elements}, tensors.front().whole.options());
  const at::Tensor all = at::empty({group.size(), elements}, part.options());
  for_each_part(tensors, part, group.rank(), [](const at::Tensor& own, const at::Tensor& place) { place.copy_(own); });
  group.all_gather(all, part);
  for (int rank = 0; rank < group.size(); ++rank)
    if (rank != group.rank())
      for_each_part(tensors, all[rank], rank, [](const at::Tensor& own, const at::Tensor& place) { own.copy_(place); });
}

}  // namespace

at::Tensor Shard::of(const at::Tensor& whole, int of_rank) const {
  ADEPT_CHECK(whole.sizes() == at::IntArrayRef(shape), "a tensor of another shape than its shards");
  const auto r = static_cast<std::size_t>(of_rank);
  return whole.view({-1}).slice(0, bounds[r], bounds[r + 1]);
}

Shard row_shard(at::IntArrayRef shape, const RankOf& process) {
  const std::int64_t rows = shape[0], row = c10::multiply_integers(shape.slice(1));
  const std::int64_t multiple = kVector / std::gcd(row, kVector);
  const std::int64_t blocks = (rows + multiple - 1) / multiple;
  Shard shard{.shape = shape.vec(), .bounds = {}, .rank = process.rank};
  for (int rank = 0; rank <= process.size; ++rank)
    shard.bounds.push_back(std::min(rows, blocks * rank / process.size * multiple) * row);
  return shard;
}

void gather(std::span<const Gathered> tensors, dist::ProcessGroup& group) {
  if (group.size() == 1) return;
  const at::NoGradGuard no_grad;
  for (std::size_t begin = 0, end = 0; begin < tensors.size(); begin = end) {
    end = gathering_from(tensors, begin, group.size()).end;
    gather_at_once(tensors.subspan(begin, end - begin), group);
  }
}

std::int64_t most_gathered_bytes(std::span<const Gathered> tensors, std::int64_t ranks) {
  std::int64_t most = 0;
  for (std::size_t begin = 0; begin < tensors.size();) {
    const Gathering gathering = gathering_from(tensors, begin, ranks);
    most = std::max(most, gathering.bytes);
    begin = gathering.end;
  }
  return most;
}

}  // namespace adept::optim
