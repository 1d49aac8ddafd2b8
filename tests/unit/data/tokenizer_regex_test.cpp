#include "adept/data/tokenizer/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/data/tokenizer/character_class.h"
#include "adept/data/tokenizer/unicode.h"
#include "tests/support/reads.h"

namespace adept::data::tok {
namespace {

using adept::test::Says;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Span> spans_of(const Regex& regex, const std::string& text) {
  MatchScratch scratch;
  std::vector<Span> spans;
  regex.for_each(text, scratch, [&](const Span& span) { spans.push_back(span); });
  return spans;
}

std::vector<std::string> matches(const std::string& pattern, const std::string& text) {
  std::vector<std::string> found;
  std::size_t covered = 0;
  for (const Span& span : spans_of(Regex(pattern, "test"), text)) {
    EXPECT_EQ(span.begin, covered) << "spans must cover the text";
    covered = span.end;
    if (span.is_match) found.push_back(text.substr(span.begin, span.end - span.begin));
  }
  EXPECT_EQ(covered, text.size());
  return found;
}

std::string refusal(const std::string& pattern) {
  try {
    Regex(pattern, "tokenizer.json: pre_tokenizer.pattern.Regex");
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(TokenizerRegex, SplitsLikeGpt2) {
  EXPECT_THAT(matches(R"('s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "It's  42 caf\u00e9s!\n\n x"),
              ElementsAre("It", "'s", " ", " 42", " caf\u00e9s", "!", "\n\n", " x"));
}

TEST(TokenizerRegex, IgnoringCaseReachesLongSAndTheKelvinSign) {
  EXPECT_THAT(matches("(?i:'s|k)", "'s 'S '\u017f k K \u212a"), ElementsAre("'s", "'S", "'\u017f", "k", "K", "\u212a"));
  EXPECT_THAT(matches("(?i:[sx])", "s\u017fX\u212a"), ElementsAre("s", "\u017f", "X"));
}

TEST(TokenizerRegex, ClassesAreThoseOfUnicode16) {
  EXPECT_THAT(matches("\\s+", "a\u0085\u00a0\u180eb\u200b\u3000"), ElementsAre("\u0085\u00a0", "\u3000"));
  EXPECT_THAT(matches("\\p{L}+", "\U00010d50\U00016d40 \u0378 1"),
              ElementsAre("\U00010d50\U00016d40"));  // letters since 16.0
  EXPECT_THAT(matches("\\w", "\u00b2"), ElementsAre("\u00b2")) << "a superscript, outside of brackets only";
  EXPECT_THAT(matches("[\\w]", "\u00b2"), ElementsAre());
  EXPECT_THAT(matches("[[a-f]&&[^b-d]]+", "abcdef"), ElementsAre("a", "ef"));
}

TEST(TokenizerRegex, EmptyMatchesDoNotTouchThePreviousMatch) {
  std::vector<std::pair<std::size_t, std::size_t>> found;
  for (const Span& span : spans_of(Regex("x*", "test"), "axb"))
    if (span.is_match) found.emplace_back(span.begin, span.end);
  EXPECT_THAT(found, ElementsAre(std::pair(0, 0), std::pair(1, 2), std::pair(3, 3)));
}

TEST(TokenizerRegex, ClassesMatchExactlyTheirSet) {
  const std::vector<std::pair<std::string, CodePointSet>> classes = {
      {"\\p{L}", CodePointSet::of_category("L")},
      {"\\P{N}", CodePointSet::of_category("N").complement()},
      {"[\\p{Lu}\\p{M}\\p{Sc}]",
       CodePointSet::of_category("Lu").united(CodePointSet::of_category("M")).united(CodePointSet::of_category("Sc"))},
      {"[\\w]", CodePointSet::word()},
      {"\\S", CodePointSet::white_space().complement()}};
  for (const auto& [pattern, set] : classes) {
    std::string text;  // both sides of every boundary
    for (const auto& [first, last] : set.ranges())
      for (const std::uint32_t c : std::vector<std::uint32_t>{first == 0 ? 0 : first - 1, first, last, last + 1})
        if (c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF)) append_utf8(text, c);
    for (const Span& span : spans_of(Regex(pattern, "test"), text))
      for (std::size_t i = span.begin; i < span.end;) {
        const char32_t c = decode_utf8(text, i);
        ASSERT_EQ(span.is_match, set.contains(c)) << pattern << " " << static_cast<std::uint32_t>(c);
      }
    EXPECT_LT(to_pcre2_class(set).size(), 5000u) << pattern << ": properties that PCRE2 has should be used";
  }
  EXPECT_EQ(to_pcre2_class(CodePointSet()), "(?!)");
}

TEST(TokenizerRegex, WhatMayMeanSomethingElseIsRefusedByName) {
  for (const auto& [pattern, reason] : std::vector<std::pair<std::string, std::string>>{
           {"a(", "an unclosed group"},
           {"a)", "an unmatched )"},
           {"[a", "an unclosed class"},
           {"[]a]", "an empty class"},
           {"[[:alpha:]]", "POSIX bracket"},
           {"(a)\\1", "the escape \\1"},
           {"\\R", "the escape \\R"},
           {"\\p{Han}", "the property \\p{Han}"},
           {"\\pL", "\\p without {name}"},
           {"a**", "a repetition of a repetition"},
           {"*a", "a repetition of nothing"},
           {"a{x}", "a { that does not begin a repetition"},
           {"a{3,2}", "reversed bounds"},
           {"[b-a]", "reversed ends"},
           {"(?i:stra\u00dfe)", "two letters under (?i)"},
           {"(?i:\u00e9)", "beyond ASCII under (?i)"},
           {"(?i:\\p{L})", "beyond ASCII letters under (?i)"},
           {"(?x: a)", "an unsupported kind of group"},
           {"(?<name>a)", "an unsupported kind of group"},
           {"\\xff", "not a code point"},
           {"\\x{110000}", "not a code point"},
           {"a\\", "a \\ at the end"},
           {std::string(70'000, 'a'), "more than 64 KiB"},
           {std::string(60, '(') + "a" + std::string(60, ')'), "nested deeper than 50"},
           {"(?<=a+)b", "a pattern that this build cannot compile"}}) {
    const std::string message = refusal(pattern);
    EXPECT_THAT(message, HasSubstr(reason)) << pattern;
    EXPECT_THAT(message, HasSubstr("tokenizer.json: pre_tokenizer.pattern.Regex is \"")) << pattern;
  }
}

TEST(TokenizerRegex, BytesInsideCharactersAreNoCharacters) {
  for (const char* character : {"\u0345", "\u00e0", "\u0420", "\u4e85", "\u5820", "\U0001f4a0"})  // end in 85 or A0
    for (int others = 0; others < 8; ++others) {
      std::string text(static_cast<std::size_t>(others), 'x');
      for (int i = 0; i < 1000; ++i) text += character;
      EXPECT_THAT(matches("\\s+", text), ElementsAre()) << character << others;
      EXPECT_THAT(matches("\\s+", text + " y"), ElementsAre(" ")) << character << others;
    }
}

TEST(TokenizerRegex, ALongPieceNeitherExhaustsAStackNorALimit) {
  const std::string letters(1'000'000, 'a');
  const std::string words = [] {
    std::string text;
    for (int i = 0; i < 250'000; ++i) text += "ab\u00e9";
    return text;
  }();
  EXPECT_EQ(matches(" ?\\p{L}+", letters).size(), 1u);
  EXPECT_EQ(matches("(?:a|b|\u00e9)+", words).size(), 1u);  // one level of backtracking for each repetition
  EXPECT_EQ(matches("(?:a(?:b|c)|\u00e9)*!|\\p{L}+", words).size(), 1u);
  EXPECT_EQ(matches("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", std::string(1'000'000, ' ') + "x").size(), 2u);
}

TEST(TokenizerRegex, ExponentialBacktrackingIsAnErrorNotAHang) {
  const Regex regex("(?:a+)+[bc]", "tokenizer.json: pre_tokenizer.pattern.Regex");
  try {
    spans_of(regex, std::string(60, 'a'));
    FAIL() << "expected an error";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), Says("\"(?:a+)+[bc]\": ...60 bytes...match limit exceeded"));
  }
}

TEST(TokenizerUnicode, IllFormedSequencesBecomeOneReplacementEach) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(replace_ill_formed("a\x80z"), "a" + bad + "z");
  EXPECT_EQ(replace_ill_formed("\xE2\x82"), bad);
  EXPECT_EQ(replace_ill_formed("\xE2\x82(\xF0\x9F\x98"), bad + "(" + bad);
  EXPECT_EQ(replace_ill_formed("\xED\xA0\x80"), bad + bad + bad);  // a surrogate
  EXPECT_EQ(replace_ill_formed("\xC0\xAF\xF5"), bad + bad + bad);
  EXPECT_EQ(replace_ill_formed("\xF4\x90\x80\x80"), bad + bad + bad + bad);
  EXPECT_EQ(replace_ill_formed("gr\u00fc\u00df \u65e5 \U0001f600"), "gr\u00fc\u00df \u65e5 \U0001f600");
  EXPECT_TRUE(is_well_formed("\xEF\xBF\xBF\xF4\x8F\xBF\xBF"));
  EXPECT_FALSE(is_well_formed("\xF4\x8F\xBF"));
}

TEST(TokenizerUnicode, SetsHaveTheAlgebraOfSets) {
  const CodePointSet a({{5, 10}, {20, 30}, {11, 12}}), b({{8, 25}});
  EXPECT_THAT(a.ranges(), ElementsAre(std::pair<char32_t, char32_t>(5, 12), std::pair<char32_t, char32_t>(20, 30)));
  EXPECT_EQ(a.intersected(b), CodePointSet({{8, 12}, {20, 25}}));
  EXPECT_EQ(a.united(b), CodePointSet({{5, 30}}));
  EXPECT_EQ(a.complement().complement(), a);
  EXPECT_TRUE(a.intersected(b).is_subset_of(a));
  EXPECT_FALSE(a.is_subset_of(b));
  EXPECT_EQ(CodePointSet().complement(), CodePointSet({{0, 0x10FFFF}}));
}

}  // namespace
}  // namespace adept::data::tok
