// The scanners against the patterns that they stand in for.
#include "adept/data/tokenizer/byte_level_encoder.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adept/core/random.h"
#include "adept/data/tokenizer/byte_level.h"
#include "adept/data/tokenizer/pre_tokenizer.h"
#include "adept/data/tokenizer/unicode.h"
#include "tests/support/sanitizers.h"

namespace adept::data::tok {
namespace {

std::string llama3_pattern(const char* digits) {
  return std::string(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)") + digits +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

SortedJson byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

SortedJson sequence(const SortedJson& first, const SortedJson& second) {
  return {{"type", "Sequence"}, {"pretokenizers", {first, second}}};
}

SortedJson split(const std::string& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

const std::map<WordPattern, SortedJson>& pre_tokenizers() {
  static const std::map<WordPattern, SortedJson> all = {
      {WordPattern::kGpt2, byte_level(true)},
      {WordPattern::kGpt2Digits, sequence({{"type", "Digits"}, {"individual_digits", true}}, byte_level(true))},
      {WordPattern::kLlama3, sequence(split(llama3_pattern(R"(\p{N}{1,3})")), byte_level(false))},
      {WordPattern::kQwen2, sequence(split(llama3_pattern(R"(\p{N})")), byte_level(false))}};
  return all;
}

/// The words that the pre-tokenizer makes, as bytes.
std::vector<std::string> expected_words(const PreTokenizer& pre_tokenizer, std::string_view text) {
  MatchScratch scratch;
  scratch.budget = TextBudget(text.size());
  std::vector<std::string> words;
  pre_tokenizer.split(text, 0, scratch, [&](std::string_view piece, std::size_t) {
    words.push_back(bytes_of_characters(piece).value());
  });
  return words;
}

std::vector<std::string> scanned_words(WordPattern pattern, std::string_view text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = word_end(pattern, text, begin);
    if (end <= begin || end > text.size()) throw std::logic_error("a word must end behind its begin");
    words.emplace_back(text.substr(begin, end - begin));
  }
  return words;
}

void expect_same_words(std::string_view text) {
  for (const auto& [pattern, json] : pre_tokenizers()) {
    static std::map<WordPattern, std::unique_ptr<PreTokenizer>> made;
    if (!made[pattern]) made[pattern] = make_pre_tokenizer(JsonField(json, "tokenizer.json"));
    EXPECT_EQ(scanned_words(pattern, text), expected_words(*made[pattern], text))
        << "pattern " << static_cast<int>(pattern) << " of " << testing::PrintToString(std::string(text));
  }
}

TEST(WordPattern, IsThatOfTheUsualPreTokenizersAndOfNoOther) {
  for (const auto& [pattern, json] : pre_tokenizers()) EXPECT_EQ(word_pattern_of(json), pattern);
  SortedJson prefixed = byte_level(true), old = byte_level(true);
  prefixed["add_prefix_space"] = true;
  old.erase("use_regex");
  EXPECT_EQ(word_pattern_of(old), WordPattern::kGpt2) << "files from before there was use_regex";
  SortedJson merged = split(llama3_pattern(R"(\p{N})")), inverted = merged;
  merged["behavior"] = "Removed";
  inverted["invert"] = true;
  for (const SortedJson& json :
       {prefixed, byte_level(false), sequence(merged, byte_level(false)), sequence(inverted, byte_level(false)),
        sequence(split(llama3_pattern(R"(\p{N})")), byte_level(true)),
        sequence(split(llama3_pattern(R"(\p{N}+)")), byte_level(false)),
        sequence({{"type", "Digits"}, {"individual_digits", false}}, byte_level(true)),
        SortedJson{{"type", "WhitespaceSplit"}}})
    EXPECT_EQ(word_pattern_of(json), std::nullopt) << json.dump();
}

TEST(WordScanner, FindsTheWordsOfThePatternInEveryShortText) {
  // One of each kind that a pattern tells apart, and what has a rule of its own.
  const std::vector<std::string> parts = {"a", "S", "'", " ", "\n", "1", "!", "\u017f", "\u00a0", "l"};
  std::vector<std::string> texts = {""};
  for (std::size_t begin = 0, length = 0; length < 4; ++length) {
    const std::size_t end = texts.size();
    for (std::size_t i = begin; i < end; ++i)
      for (const std::string& part : parts) texts.push_back(texts[i] + part);
    begin = end;
  }
  for (std::size_t i = 1; i < texts.size(); i += test::has_sanitizers() ? 16 : 1) expect_same_words(texts[i]);
}

TEST(WordScanner, FindsTheWordsOfThePatternInRandomText) {
  const std::vector<std::string> parts = {"'s",         "'S",
                                          "'\u017f",    "'t",
                                          "'re",        "'RE",
                                          "'ve",        "'m",
                                          "'ll",        "'lL",
                                          "'d",         "'",
                                          "''",         "'x",
                                          " ",          "  ",
                                          "   ",        "\n",
                                          "\r\n",       "\n\n",
                                          "\t",         "\v",
                                          "\f",         "\u0085",
                                          "\u00a0",     "\u2003",
                                          "\u3000",     "\u200b",
                                          "\u180e",     "a",
                                          "the",        "Z",
                                          "z",          "@",
                                          "[",          "`",
                                          "{",          "abcdefghijklmnopqrstuvwxyz",
                                          "\u00e9",     "\u4e2d\u6587",
                                          "\u0301",     "1",
                                          "12",         "123",
                                          "1234567",    "\u0663",
                                          "\u00bd",     "\u2167",
                                          "\U00011de0", "\U00016ff4",
                                          "!",          "?!",
                                          "...",        "_",
                                          "-",          "\U0001f600",
                                          "\U0010ffff", std::string(1, '\0'),
                                          "\x7f",       "\u0080",
                                          "<s>"};
  std::uint64_t counter = 0;
  const auto pick = [&](std::size_t below) {
    return static_cast<std::size_t>(random_bits(7, RandomStream::kTextSample, counter++) % below);
  };
  for (std::size_t n = test::large(16'000); n > 0; --n) {
    std::string text;
    for (std::size_t i = pick(24); i > 0; --i) text += parts[pick(parts.size())];
    if (!text.empty()) expect_same_words(text);
  }
}

TEST(WordScanner, KnowsTheFirstAndTheLastCodePointOfEachCategory) {
  std::string text;
  for (char32_t c = 0x80; c + 1 < 0x110000; ++c) {
    const bool is_edge = category_of(c - 1) != category_of(c) || category_of(c) != category_of(c + 1);
    if ((c >= 0xD800 && c < 0xE000) || (!is_edge && is_numeric(c - 1) == is_numeric(c + 1))) continue;
    append_utf8(text, c);
    text += c % 3 == 0 ? " " : c % 3 == 1 ? "a" : "1";
    if (text.size() < 4096) continue;
    expect_same_words(text);
    text.clear();
  }
  expect_same_words(text);
}

TEST(WordCache, GivesTheIdsOfAWordAndOfNoOther) {
  auto cache = std::make_unique<WordCache>();
  std::map<std::string, std::vector<std::int32_t>> inserted;
  std::uint64_t counter = 0;
  const auto pick = [&](std::uint64_t below) { return random_bits(3, RandomStream::kTextSample, counter++) % below; };
  const auto find = [&](const std::string& word) {
    std::int32_t ids[WordCache::kMaxIds];
    const std::size_t count = cache->find(WordCache::key_of(word), ids);
    return std::vector<std::int32_t>(ids, ids + count);
  };
  std::size_t found = 0;
  for (int n = 0; n < 50'000; ++n) {
    std::string word(1 + pick(WordCache::kMaxBytes), '\0');
    for (char& byte : word) byte = static_cast<char>(pick(3));  // NULs too, so that many are alike
    const auto known = inserted.find(word);
    const std::vector<std::int32_t> ids = find(word);
    if (!ids.empty()) {
      ASSERT_NE(known, inserted.end()) << testing::PrintToString(word);
      EXPECT_EQ(ids, known->second);
    }
    found += !ids.empty();
    std::vector<std::int32_t> next(1 + pick(WordCache::kMaxIds));
    for (std::int32_t& id : next) id = static_cast<std::int32_t>(pick(1 << 24));
    if (known == inserted.end()) {
      cache->insert(WordCache::key_of(word), next.data(), next.size());
      inserted[word] = next;
      EXPECT_EQ(find(word), next);
    }
  }
  EXPECT_GT(found, 1000U);
}

}  // namespace
}  // namespace adept::data::tok
