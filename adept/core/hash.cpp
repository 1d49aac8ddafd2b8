#include "adept/core/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <atomic>
#include <charconv>
#include <cstdint>
#include <utility>

#include "adept/core/hash_detail.h"

namespace adept {
namespace {

constexpr std::string_view kPrefix = "xxh3:";
std::atomic<std::int64_t> num_hashed = 0;

}  // namespace

std::string to_string(const HashValue& hash) { return fmt::format("{}{:016x}{:016x}", kPrefix, hash.high, hash.low); }

std::optional<HashValue> parse_hash(std::string_view text) {
  if (!text.starts_with(kPrefix) || text.size() != kPrefix.size() + 32) return std::nullopt;
  HashValue hash;
  for (const auto& [number, digits] : {std::pair(&hash.high, text.substr(kPrefix.size(), 16)),
                                       std::pair(&hash.low, text.substr(kPrefix.size() + 16))}) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *number, 16);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  }
  return hash;
}

struct Hasher::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Hasher::Hasher() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh); }
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

Hasher& Hasher::update(std::span<const std::byte> bytes) {
  num_hashed.fetch_add(std::ssize(bytes), std::memory_order_relaxed);
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
  return *this;
}

Hasher& Hasher::update(std::string_view text) { return update(std::as_bytes(std::span(text.data(), text.size()))); }

Hasher& Hasher::reset() {
  XXH3_128bits_reset(state_->xxh);
  return *this;
}

HashValue Hasher::value() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return {hash.high64, hash.low64};
}
std::string Hasher::digest() const { return to_string(value()); }

std::int64_t detail::hashed_bytes() { return num_hashed.load(std::memory_order_relaxed); }

HashValue hash_value_of(std::span<const std::byte> bytes) {
  num_hashed.fetch_add(std::ssize(bytes), std::memory_order_relaxed);
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}
std::string hash_of(std::span<const std::byte> bytes) { return to_string(hash_value_of(bytes)); }
std::string hash_of(std::string_view text) { return hash_of(std::as_bytes(std::span(text.data(), text.size()))); }

std::uint64_t short_hash_of(std::span<const std::byte> bytes) {
  num_hashed.fetch_add(std::ssize(bytes), std::memory_order_relaxed);
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace adept
