// Content hashes (XXH3, 128 bits): they detect change and corruption, not an adversary.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace adept {

/// Incremental XXH3-128.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  Hasher& update(std::span<const std::byte> bytes);
  Hasher& update(std::string_view text);
  /// Forgets all data.
  Hasher& reset();
  /// "xxh3:" and 32 hexadecimal digits for all data so far.
  std::string digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Digest of one buffer.
std::string hash_of(std::span<const std::byte> bytes);
std::string hash_of(std::string_view text);

/// XXH3-64 of one buffer, for many small ones.
std::uint64_t short_hash_of(std::span<const std::byte> bytes);

}  // namespace adept
