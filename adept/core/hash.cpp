#include "adept/core/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <atomic>
#include <cstdint>

#include "adept/core/hash_detail.h"

namespace adept {
namespace {

std::atomic<std::int64_t> num_hashed = 0;

std::string digits_of(const XXH128_hash_t& hash) { return fmt::format("xxh3:{:016x}{:016x}", hash.high64, hash.low64); }

}  // namespace

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

std::string Hasher::digest() const { return digits_of(XXH3_128bits_digest(state_->xxh)); }

std::int64_t detail::hashed_bytes() { return num_hashed.load(std::memory_order_relaxed); }

std::string hash_of(std::span<const std::byte> bytes) {
  num_hashed.fetch_add(std::ssize(bytes), std::memory_order_relaxed);
  return digits_of(XXH3_128bits(bytes.data(), bytes.size()));
}
std::string hash_of(std::string_view text) { return hash_of(std::as_bytes(std::span(text.data(), text.size()))); }

std::uint64_t short_hash_of(std::span<const std::byte> bytes) {
  num_hashed.fetch_add(std::ssize(bytes), std::memory_order_relaxed);
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace adept
