// Hashes of what is in the memory of tensors, computed on the device where they are.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace adept::train {

constexpr std::int64_t kHashedBlock = 1 << 14;  ///< bytes

/// A hash of each block of a tensor's bytes, in the order of its elements; none of an undefined tensor. A change of one
/// bit always changes a hash. The CPU computes XXH3 with all threads. Other devices compute a sum of 32-bit words times
/// odd random numbers, modulo 2^64 (a multilinear hash: two contents collide with a probability of at most 2^-32), and
/// only hashes are copied to the host. So hashes are equal for equal bytes on devices of one type only.
std::vector<std::uint64_t> block_hashes(const at::Tensor& tensor);

/// One hash of all of them, to compare with those of other ranks.
std::string hash_of_blocks(std::span<const std::uint64_t> hashes);

}  // namespace adept::train
