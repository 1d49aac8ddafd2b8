// The direct way from text to ids for the usual byte-level tokenizers (GPT-2, SmolLM2, Llama 3, Qwen2 and others with
// the same pattern): words are found by hand-written scanners instead of the pattern, and the ids of short words come
// from a cache. The result is that of the pre-tokenizer and the model, which remain the reference.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adept/data/tokenizer/bpe.h"
#include "adept/data/tokenizer/json_field.h"

namespace adept::data::tok {

/// The ids of words of up to 16 bytes with up to four ids; a newer word replaces an older one. 2 MB.
class WordCache {
 public:
  static constexpr std::size_t kMaxBytes = 16;
  static constexpr std::size_t kMaxIds = 4;

  /// What a word is compared by: two words of one length have equal halves only if they are equal.
  struct Key {
    std::uint64_t first = 0;   ///< its first 8 bytes, or fewer
    std::uint64_t second = 0;  ///< its last 8 bytes, or fewer
    std::uint32_t size = 0;
  };
  /// `word` has 1 to kMaxBytes bytes.
  static Key key_of(std::string_view word) {
    const char *begin = word.data(), *end = begin + word.size();
    const auto size = static_cast<std::uint32_t>(word.size());
    if (size >= 8) return {load<std::uint64_t>(begin), load<std::uint64_t>(end - 8), size};
    if (size >= 4) return {load<std::uint32_t>(begin), load<std::uint32_t>(end - 4), size};
    if (size >= 2) return {load<std::uint16_t>(begin), load<std::uint16_t>(end - 2), size};
    return {static_cast<unsigned char>(*begin), 0, size};
  }

  /// Copies kMaxIds ids to `ids`, of which the result's number are the word's; 0: it is not in the cache.
  std::size_t find(const Key& key, std::int32_t* ids) const {
    const Entry& entry = entries_[slot_of(key)];
    if (entry.first != key.first || entry.second != key.second || entry.ids[0] >> 24 != key.size) return 0;
    for (std::size_t i = 0; i < kMaxIds; ++i) ids[i] = static_cast<std::int32_t>(entry.ids[i] & 0xFFFFFF);
    return entry.ids[1] >> 24;
  }

  /// `ids`: 1 to kMaxIds, below 2^24.
  void insert(const Key& key, const std::int32_t* ids, std::size_t count) {
    Entry entry{key.first, key.second, {}};
    for (std::size_t i = 0; i < count; ++i) entry.ids[i] = static_cast<std::uint32_t>(ids[i]);
    entry.ids[0] |= key.size << 24;
    entry.ids[1] |= static_cast<std::uint32_t>(count) << 24;
    entries_[slot_of(key)] = entry;
  }

 private:
  /// The first id has the word's size in its high byte, the second the number of ids. Size 0: an empty slot.
  struct Entry {
    std::uint64_t first = 0, second = 0;
    std::array<std::uint32_t, kMaxIds> ids{};
  };
  static constexpr int kSlotBits = 16;

  static std::size_t slot_of(const Key& key) {
    std::uint64_t hash = (key.first ^ std::rotl(key.second, 29) ^ key.size) * 0x9E3779B97F4A7C15ULL;
    hash = (hash ^ hash >> 32) * 0xD6E8FEB86659FD93ULL;
    return hash >> (64 - kSlotBits);
  }
  template <typename T>
  static T load(const char* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }

  std::vector<Entry> entries_ = std::vector<Entry>(std::size_t{1} << kSlotBits);
};

/// Which words a pre-tokenizer makes.
enum class WordPattern {
  kGpt2,        ///< ByteLevel with its own pattern
  kGpt2Digits,  ///< the same after Digits with individual_digits: SmolLM2
  kLlama3,      ///< Split with the pattern of Llama 3, then ByteLevel: up to three digits
  kQwen2,       ///< the same with one digit
};

/// The pattern of a pre-tokenizer of tokenizer.json; nothing for other pre-tokenizers. `pre_tokenizer` is valid.
std::optional<WordPattern> word_pattern_of(const SortedJson& pre_tokenizer);

/// The end of the word that begins at `begin` of well-formed `text`, begin < text.size().
std::size_t word_end(WordPattern pattern, std::string_view text, std::size_t begin);

/// Working memory of one thread.
struct WordScratch {
  WordCache cache;
  std::string characters;
};

/// Appends the ids of well-formed `text`, which the pre-tokenizer would split. Throws like BpeModel::tokenize.
void encode_words(WordPattern pattern, std::string_view text, const BpeModel& model, WordScratch& words,
                  MergeScratch& merge, IdBuffer& out);

}  // namespace adept::data::tok
