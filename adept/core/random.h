// Stateless, counter-based randomness: every draw is a pure function of (seed, stream, counter), so checkpoints need no
// generator state.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace adept {

/// Independent streams of one seed. Values are part of the resume contract: never renumber.
enum class RandomStream : std::uint64_t {
  kDocumentOrder = 1,
  kSampling = 2,
  kBootstrap = 3,
  kUnitProbe = 4,
  kProbeOrder = 5,
  kLora = 6,
  kDropout = 7,
  kSequenceOrder = 8,
  kTextSample = 9
};

/// 64 uniform random bits.
std::uint64_t random_bits(std::uint64_t seed, RandomStream stream, std::uint64_t counter);
/// Uniform in [0, 1), 53 bits.
double random_uniform(std::uint64_t seed, RandomStream stream, std::uint64_t counter);
/// 0, 1, ... count - 1: an order to shuffle.
std::vector<std::int64_t> numbers_below(std::int64_t count);
/// Fisher-Yates shuffle in place; `salt` separates the shuffles of one stream (source, epoch).
void random_shuffle(std::span<std::int64_t> values, std::uint64_t seed, RandomStream stream, std::uint64_t salt);

}  // namespace adept
