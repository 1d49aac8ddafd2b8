// Regular expressions of tokenizer.json files: written in Oniguruma's Ruby syntax, run by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/data/tokenizer/text_budget.h"

namespace adept::data::tok {

/// A span of the text: either a match of the pattern or the text between two matches.
struct Span {
  std::size_t begin;
  std::size_t end;
  bool is_match;
};

/// Receives the spans of a text in order.
using SpanSink = FunctionRef<void(const Span&)>;

/// Working memory of one thread, and the remaining budget of its current text.
class MatchScratch {
 public:
  MatchScratch();
  ~MatchScratch();
  MatchScratch(MatchScratch&&) noexcept;
  MatchScratch& operator=(MatchScratch&&) noexcept;

  TextBudget budget;

  /// Reusable strings for pieces; each is in use until its lease ends. Large ones are not kept.
  class Lease {
   public:
    explicit Lease(MatchScratch& scratch);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    std::string& operator*() const { return *string_; }

   private:
    MatchScratch& scratch_;
    std::unique_ptr<std::string> string_;
  };

 private:
  friend class Regex;
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
  std::vector<std::unique_ptr<std::string>> strings_;
};

/// A compiled pattern. Immutable and safe to share between threads.
///
/// The pattern is rewritten for PCRE2 to keep its meaning in Oniguruma: every class (`\s`, `\p{L}`, `[^...]`) is
/// spelled out in code points of Unicode 16.0, `(?i:...)` is expanded letter by letter (long s and the Kelvin sign
/// included), and constructs not known to be equivalent are rejected.
class Regex {
 public:
  /// `where` names the pattern in errors ("tokenizer.json: pre_tokenizer.pattern.Regex"). Throws DataError if a
  /// construct is not supported or the pattern does not compile.
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// Emits spans that cover `text`, which must be well-formed UTF-8. As in Oniguruma's Rust binding, empty matches
  /// directly after a match are not reported.
  ///
  /// Each match is first tried within a few hundred bytes and with few steps of backtracking, which bounds its cost. If
  /// that fails, each step is counted (including bytes passed over) and charged to the budget of the whole text. Throws
  /// DataError if the budget is exhausted; InterruptedError after a signal.
  void for_each(std::string_view text, MatchScratch& scratch, SpanSink emit) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

/// The same for a literal string (an empty one matches everywhere, like an empty regular expression).
void for_each_literal(std::string_view needle, std::string_view text, SpanSink emit);

/// The pattern in PCRE2's syntax. Throws DataError.
std::string translate_pattern(std::string_view pattern, const std::string& where);

}  // namespace adept::data::tok
