#include "adept/data/tokenizer/byte_level_encoder.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "adept/core/signals.h"
#include "adept/data/tokenizer/byte_level.h"
#include "adept/data/tokenizer/unicode.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace adept::data::tok {
namespace {

// What the patterns tell apart. Every code point is exactly one of these.
enum Kind : std::uint8_t { kOther, kLetter, kNumber, kSpace };

constexpr std::size_t kCodePoints = 0x110000;
constexpr std::size_t kFoundIds = 1024;

/// \p{L}, \p{N} and \s of Unicode 16.0, as in the patterns; Digits splits at the numbers of Unicode 17.0.
const std::vector<std::uint8_t>& kinds(bool splits_digits) {
  const auto make = [](bool numeric_of_rust) {
    std::vector<std::uint8_t> table(kCodePoints, kOther);
    const auto fill = [&](const CodePointSet& set, Kind kind) {
      for (const auto& [first, last] : set.ranges())
        std::fill(table.begin() + static_cast<std::ptrdiff_t>(first),
                  table.begin() + static_cast<std::ptrdiff_t>(last) + 1, static_cast<std::uint8_t>(kind));
    };
    fill(CodePointSet::of_category("L"), kLetter);
    fill(CodePointSet::of_category("N"), kNumber);
    fill(CodePointSet::white_space(), kSpace);
    if (numeric_of_rust)
      for (char32_t c = 0; c < kCodePoints; ++c)
        if (is_numeric(c)) table[c] = kNumber;
    return table;
  };
  static const std::vector<std::uint8_t> plain = make(false), of_digits = make(true);
  return splits_digits ? of_digits : plain;
}

template <WordPattern kPattern>
class Scanner {
 public:
  explicit Scanner(std::string_view text)
      : text_(text.data()), size_(text.size()), kinds_(kinds(kPattern == WordPattern::kGpt2Digits).data()) {}

  std::size_t word_end(std::size_t begin) const {
    if constexpr (kPattern == WordPattern::kGpt2 || kPattern == WordPattern::kGpt2Digits)
      return end_as_gpt2(begin);
    else
      return end_as_llama3(begin, kPattern == WordPattern::kLlama3 ? 3 : 1);
  }

 private:
  /// The kind of the character at `i`, which moves behind it.
  Kind next(std::size_t& i) const {
    const auto byte = static_cast<unsigned char>(text_[i]);
    if (byte < 0x80) {
      ++i;
      return static_cast<Kind>(kinds_[byte]);
    }
    return static_cast<Kind>(kinds_[decode_utf8({text_, size_}, i)]);
  }
  Kind at(std::size_t i) const { return next(i); }

  std::size_t skip(Kind kind, std::size_t i) const {
    for (;;) {
      if (kind == kLetter) i = skip_ascii_letters(i);
      if (i == size_) return i;
      std::size_t after = i;
      if (next(after) != kind) return i;
      i = after;
    }
  }

  std::size_t skip_ascii_letters(std::size_t i) const {
#ifdef __SSE2__
    for (; i + 16 <= size_; i += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text_ + i));
      const __m128i lower = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
      // Signed comparison: bytes of other characters are negative.
      const __m128i is_letter =
          _mm_and_si128(_mm_cmpgt_epi8(lower, _mm_set1_epi8('a' - 1)), _mm_cmplt_epi8(lower, _mm_set1_epi8('z' + 1)));
      const auto others = static_cast<unsigned>(~_mm_movemask_epi8(is_letter)) & 0xFFFFU;
      if (others != 0) return i + static_cast<std::size_t>(std::countr_zero(others));
    }
#endif
    while (i < size_ && (text_[i] | 0x20) >= 'a' && (text_[i] | 0x20) <= 'z') ++i;
    return i;
  }

  std::size_t skip_newlines(std::size_t i) const {
    while (i < size_ && is_newline(i)) ++i;
    return i;
  }
  bool is_newline(std::size_t i) const { return text_[i] == '\r' || text_[i] == '\n'; }

  /// 's, 't, 're, 've, 'm, 'll, 'd behind the apostrophe at `begin`: the end of the word, or `begin`. Ignoring case, a
  /// long s is an s as well.
  std::size_t contraction_end(std::size_t begin, bool ignores_case) const {
    const auto letter = [&](std::size_t i) -> char {
      if (i >= size_) return 0;
      const char c = text_[i];
      return ignores_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    };
    const char first = letter(begin + 1), second = letter(begin + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return begin + 2;
    if ((first == 'r' || first == 'v') && second == 'e') return begin + 3;
    if (first == 'l' && second == 'l') return begin + 3;
    if (ignores_case && first == '\xC5' && second == '\xBF') return begin + 3;
    return begin;
  }

  /// White space from `begin` on. As `\s+(?!\S)|\s+`: without its last character where something follows that is none,
  /// unless it is the only one. `newlines`: as `\s*[\r\n]+` first, up to the last newline.
  std::size_t spaces_end(std::size_t begin, bool newlines) const {
    std::size_t last = begin, end = begin, behind_newline = begin;
    Kind kind = kSpace;
    for (std::size_t i = begin; i < size_;) {
      last = i;
      kind = next(i);
      if (kind != kSpace) break;
      if (newlines && is_newline(last)) behind_newline = i;
      end = i;
    }
    if (behind_newline > begin) return behind_newline;
    const bool is_at_end = end == size_ || (kPattern == WordPattern::kGpt2Digits && kind == kNumber);
    if (is_at_end) return end;
    std::size_t before = end;
    decode_utf8_before({text_, size_}, before);
    return before > begin ? before : end;
  }

  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  // Digits comes first where there is one, so that each number is a word, and the text before it ends there.
  std::size_t end_as_gpt2(std::size_t begin) const {
    constexpr bool is_digits = kPattern == WordPattern::kGpt2Digits;
    std::size_t i = begin;
    const Kind kind = next(i);
    if (kind == kSpace) {
      if (text_[begin] != ' ' || i == size_) return spaces_end(begin, false);
      const Kind following = at(i);
      if (following == kSpace || (is_digits && following == kNumber)) return spaces_end(begin, false);
      return skip(following, i);
    }
    if (is_digits && kind == kNumber) return i;
    if (text_[begin] == '\'')
      if (const std::size_t end = contraction_end(begin, false); end > begin) return end;
    return skip(kind, i);
  }

  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  std::size_t end_as_llama3(std::size_t begin, int most_digits) const {
    std::size_t i = begin;
    const Kind kind = next(i);
    if (kind == kLetter) return skip(kLetter, i);
    if (kind == kNumber) {
      for (int digits = 1; digits < most_digits && i < size_; ++digits) {
        std::size_t after = i;
        if (next(after) != kNumber) break;
        i = after;
      }
      return i;
    }
    if (text_[begin] == '\'')
      if (const std::size_t end = contraction_end(begin, true); end > begin) return end;
    const Kind following = i < size_ ? at(i) : kSpace;
    if (following == kLetter && !is_newline(begin)) return skip(kLetter, i);
    if (kind == kOther || (text_[begin] == ' ' && following == kOther)) return skip_newlines(skip(kOther, i));
    return spaces_end(begin, true);
  }

  const char* text_;
  std::size_t size_;
  const std::uint8_t* kinds_;
};

template <typename Use>
void with_scanner(WordPattern pattern, std::string_view text, const Use& use) {
  switch (pattern) {
    case WordPattern::kGpt2:
      return use(Scanner<WordPattern::kGpt2>(text));
    case WordPattern::kGpt2Digits:
      return use(Scanner<WordPattern::kGpt2Digits>(text));
    case WordPattern::kLlama3:
      return use(Scanner<WordPattern::kLlama3>(text));
    case WordPattern::kQwen2:
      return use(Scanner<WordPattern::kQwen2>(text));
  }
}

bool has(const SortedJson& json, const char* key, const SortedJson& value) {
  return json.contains(key) && json.at(key) == value;
}

bool is_byte_level(const SortedJson& json, bool use_regex) {
  const bool is_default = !json.contains("use_regex") || json.at("use_regex").is_null();
  return has(json, "type", "ByteLevel") && has(json, "add_prefix_space", false) &&
         (has(json, "use_regex", use_regex) || (use_regex && is_default));
}

}  // namespace

std::optional<WordPattern> word_pattern_of(const SortedJson& json) {
  if (is_byte_level(json, true)) return WordPattern::kGpt2;
  if (!has(json, "type", "Sequence") || json.at("pretokenizers").size() != 2) return std::nullopt;
  const SortedJson &first = json.at("pretokenizers")[0], &second = json.at("pretokenizers")[1];
  if (has(first, "type", "Digits") && has(first, "individual_digits", true) && is_byte_level(second, true))
    return WordPattern::kGpt2Digits;
  if (!has(first, "type", "Split") || !has(first, "behavior", "Isolated") || !has(first, "invert", false) ||
      !is_byte_level(second, false))
    return std::nullopt;
  constexpr std::string_view kBegin = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)",
                             kEnd = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  for (const auto& [digits, found] :
       {std::pair{R"(\p{N}{1,3})", WordPattern::kLlama3}, {R"(\p{N})", WordPattern::kQwen2}})
    if (has(first.at("pattern"), "Regex", std::string(kBegin).append(digits).append(kEnd))) return found;
  return std::nullopt;
}

std::size_t word_end(WordPattern pattern, std::string_view text, std::size_t begin) {
  std::size_t end = 0;
  with_scanner(pattern, text, [&](const auto& scanner) { end = scanner.word_end(begin); });
  return end;
}

void encode_words(WordPattern pattern, std::string_view text, const BpeModel& model, WordScratch& words,
                  MergeScratch& merge, IdBuffer& out) {
  std::array<std::int32_t, kFoundIds + WordCache::kMaxIds> found;  // of words in the cache, not yet in `out`
  std::size_t num_found = 0;
  const auto pass_on = [&] {
    out.ids().insert(out.ids().end(), found.begin(), found.begin() + static_cast<std::ptrdiff_t>(num_found));
    out.flush_if_full();
    num_found = 0;
  };
  const auto encode = [&](std::string_view word, const WordCache::Key* key) {
    pass_on();
    // So that the ids of a short word stay in the buffer.
    if (out.make_room(2 * WordCache::kMaxBytes)) throw_if_interrupted();
    const std::size_t before = out.ids().size();
    words.characters.clear();
    words.characters.reserve(2 * word.size());  // a byte becomes one or two
    append_byte_characters(words.characters, word);
    if (key == nullptr) return model.tokenize(words.characters, merge, out);
    model.tokenize_uncached(words.characters, merge, out);
    const std::size_t count = out.ids().size() - before;
    if (count > 0 && count <= WordCache::kMaxIds) words.cache.insert(*key, out.ids().data() + before, count);
  };
  with_scanner(pattern, text, [&](const auto& scanner) {
    for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = scanner.word_end(begin);
      const std::string_view word = text.substr(begin, end - begin);
      if (word.size() > WordCache::kMaxBytes) {
        encode(word, nullptr);
        continue;
      }
      const WordCache::Key key = WordCache::key_of(word);
      if (const std::size_t count = words.cache.find(key, found.data() + num_found); count > 0) {
        num_found += count;
        if (num_found < kFoundIds) continue;
        throw_if_interrupted();
        pass_on();
      } else {
        encode(word, &key);
      }
    }
  });
  pass_on();
  if (words.characters.capacity() > (std::size_t{1} << 20)) std::string().swap(words.characters);
}

}  // namespace adept::data::tok
