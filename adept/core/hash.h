// Content hashes (XXH3, 128 bits): they detect change and corruption, not an adversary.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace adept {

/// The 128 bits of a hash.
struct HashValue {
  std::uint64_t high = 0, low = 0;
};
/// "xxh3:" and 32 hexadecimal digits.
std::string to_string(const HashValue& hash);
/// The inverse; nothing for another text.
std::optional<HashValue> parse_hash(std::string_view text);

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
  /// For all data so far.
  HashValue value() const;
  std::string digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Of one buffer.
HashValue hash_value_of(std::span<const std::byte> bytes);
std::string hash_of(std::span<const std::byte> bytes);
std::string hash_of(std::string_view text);

/// XXH3-64 of one buffer, for many small ones.
std::uint64_t short_hash_of(std::span<const std::byte> bytes);

}  // namespace adept
