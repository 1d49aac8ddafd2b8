// Regular expressions of tokenizer.json files: written in Oniguruma's Ruby syntax, run by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace adept::data::tok {

/// A stretch of the text; either a match of the pattern or what lies between two matches.
struct Span {
  std::size_t begin;
  std::size_t end;
  bool is_match;
};

/// The working memory of one thread for matching. Grows with the text, never shrinks.
class MatchScratch {
 public:
  MatchScratch();
  ~MatchScratch();
  MatchScratch(MatchScratch&&) noexcept;
  MatchScratch& operator=(MatchScratch&&) noexcept;

 private:
  friend class Regex;
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
};

/// A compiled pattern. Immutable and safe to share between threads.
///
/// The pattern is rewritten for PCRE2 so that it means what it means to Oniguruma: every class (`\s`, `\p{L}`,
/// `[^...]`) is spelled out in code points of Unicode 16.0, `(?i:...)` is expanded letter by letter (long s and the
/// Kelvin sign included), and whatever is not known to mean the same is refused.
class Regex {
 public:
  /// `where` names the pattern in errors ("tokenizer.json: pre_tokenizer.pattern.Regex").
  /// Throws DataError where a construct is not supported or the pattern does not compile.
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// Appends spans that cover `text`, which must be well-formed UTF-8. Empty matches are reported as Oniguruma's Rust
  /// binding does: not directly behind a match. Throws DataError where a match exceeds the limit on backtracking.
  void find_all(std::string_view text, MatchScratch& scratch, std::vector<Span>& spans) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

/// The same for a literal string (an empty one matches everywhere, like an empty regular expression).
void find_all_literal(std::string_view needle, std::string_view text, std::vector<Span>& spans);

/// The pattern in PCRE2's syntax. Throws DataError.
std::string translate_pattern(std::string_view pattern, const std::string& where);

}  // namespace adept::data::tok
