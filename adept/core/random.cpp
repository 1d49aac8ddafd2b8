#include "adept/core/random.h"

#include <numeric>
#include <utility>

namespace adept {
namespace {

__extension__ typedef unsigned __int128 Uint128;

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

std::uint64_t random_bits(std::uint64_t seed, RandomStream stream, std::uint64_t counter) {
  return mix(mix(mix(seed) ^ static_cast<std::uint64_t>(stream)) ^ counter);
}

double random_uniform(std::uint64_t seed, RandomStream stream, std::uint64_t counter) {
  return static_cast<double>(random_bits(seed, stream, counter) >> 11) * 0x1.0p-53;
}

std::vector<std::int64_t> numbers_below(std::int64_t count) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

void random_shuffle(std::span<std::int64_t> values, std::uint64_t seed, RandomStream stream, std::uint64_t salt) {
  const std::uint64_t key = random_bits(seed, stream, salt);
  for (std::size_t i = values.size(); i > 1; --i) {
    const std::size_t j = static_cast<std::size_t>((static_cast<Uint128>(mix(key ^ mix(i))) * i) >> 64);
    std::swap(values[i - 1], values[j]);
  }
}

}  // namespace adept
