#include "adept/train/block_hashes.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstddef>
#include <span>

#include "adept/core/hash.h"

namespace adept::train {
namespace {

constexpr std::int64_t kWords = kHashedBlock / 4;  // of a block
constexpr std::int64_t kBlocksOfThread = 16;       // at least: 256 KiB
constexpr std::int64_t kBlocksAtOnce = 1024;       // their products take 32 MiB

// (kWords)
const at::Tensor& factors() {
  static const at::Tensor factors = [] {
    at::Tensor result = at::empty({kWords}, at::kLong);
    auto* next = result.mutable_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < kWords; ++i)
      next[i] = static_cast<std::int64_t>(short_hash_of(std::as_bytes(std::span(&i, 1))) | 1U);
    return result;
  }();
  return factors;
}

std::vector<std::uint64_t> hash_on_cpu(const at::Tensor& bytes) {
  const std::span all(static_cast<const std::byte*>(bytes.const_data_ptr()), static_cast<std::size_t>(bytes.numel()));
  const std::int64_t count = (bytes.numel() + kHashedBlock - 1) / kHashedBlock;
  std::vector<std::uint64_t> hashes(static_cast<std::size_t>(count));
  at::parallel_for(0, count, kBlocksOfThread, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const auto rest = all.subspan(i * kHashedBlock);
      hashes[i] = short_hash_of(rest.first(std::min<std::size_t>(rest.size(), kHashedBlock)));
    }
  });
  return hashes;
}

std::vector<std::uint64_t> hash_on_device(const at::Tensor& bytes) {
  const at::Tensor of_words = factors().to(bytes.device());
  std::vector<at::Tensor> parts;
  const auto add = [&](const at::Tensor& blocks) {  // (n * kHashedBlock)
    parts.push_back((blocks.view(at::kInt).view({-1, kWords}) * of_words).sum(1));
  };
  const std::int64_t whole = bytes.numel() / kHashedBlock * kHashedBlock;
  for (std::int64_t begin = 0; begin < whole; begin += kBlocksAtOnce * kHashedBlock)
    add(bytes.slice(0, begin, std::min(whole, begin + kBlocksAtOnce * kHashedBlock)));
  if (whole < bytes.numel()) {
    const at::Tensor last = at::zeros({kHashedBlock}, bytes.options());
    last.slice(0, 0, bytes.numel() - whole).copy_(bytes.slice(0, whole));
    add(last);
  }
  const at::Tensor hashes = at::cat(parts).cpu();
  const auto* first = hashes.const_data_ptr<std::int64_t>();
  return {first, first + hashes.numel()};
}

}  // namespace

std::vector<std::uint64_t> block_hashes(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.numel() == 0) return {};
  const at::NoGradGuard no_grad;
  at::Tensor bytes = tensor.detach().contiguous().view({-1}).view(at::kByte);
  if (bytes.device().is_cpu()) return hash_on_cpu(bytes);
  if (bytes.storage_offset() % 4 != 0) bytes = bytes.clone();  // words are aligned
  return hash_on_device(bytes);
}

std::string hash_of_blocks(std::span<const std::uint64_t> hashes) { return hash_of(std::as_bytes(hashes)); }

}  // namespace adept::train
