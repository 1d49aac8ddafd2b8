#include "adept/core/hash.h"

#include <gtest/gtest.h>

#include <string>

namespace adept {
namespace {

// Known answers of XXH3-128 with seed 0, as `xxhsum -H128` prints them.
TEST(Hash, HasItsKnownAnswers) {
  EXPECT_EQ(hash_of(""), "xxh3:99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash_of("a"), "xxh3:a96faf705af16834e6c632b61e964e1f");
}

TEST(Hash, PiecesGiveTheHashOfTheWhole) {
  std::string text;
  for (int i = 0; i < 10'000; ++i) text += static_cast<char>(i * 31 % 251);
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{256}, std::size_t{9'999}}) {
    Hasher hasher;
    for (std::size_t i = 0; i < text.size(); i += piece) hasher.update(std::string_view(text).substr(i, piece));
    EXPECT_EQ(hasher.digest(), hash_of(text)) << piece;
    EXPECT_EQ(hasher.digest(), hash_of(text)) << "the digest does not change the state";
  }
}

TEST(Hash, OneChangedBitChangesIt) {
  std::string text(1000, 'x');
  const std::string before = hash_of(text);
  text[777] ^= 1;
  EXPECT_NE(hash_of(text), before);
}

TEST(Hash, TextAndValueAreTheSame) {
  for (const char* text : {"", "a", "more"}) {
    const HashValue value = hash_value_of(std::as_bytes(std::span(std::string_view(text))));
    EXPECT_EQ(to_string(value), hash_of(text));
    EXPECT_EQ(to_string(parse_hash(hash_of(text)).value()), hash_of(text));
  }
  for (const char* text : {"", "xxh3:", "xxh3:99aa06d3014798d86001c324468d497", "xxh3:99aa06d3014798d86001c324468d497g",
                           "xxh3:99aa06d3014798d86001c324468d497f0", "sha1:99aa06d3014798d86001c324468d497f",
                           "xxh3:+9aa06d3014798d86001c324468d497f"})
    EXPECT_FALSE(parse_hash(text)) << text;
}

TEST(Hasher, ForgetsAllOnReset) {
  Hasher hasher;
  hasher.update("old").reset().update("new");
  EXPECT_EQ(hasher.digest(), hash_of("new"));
}

}  // namespace
}  // namespace adept
