// UTF-8 and the Unicode properties that tokenization uses, fixed to the versions that Hugging Face `tokenizers` 0.23
// uses, independent of the system's libraries: a new letter in Unicode must not change ids.
//
// Categories are Unicode 16.0 (Oniguruma 6.9.10, which `tokenizers` links).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace adept::data::tok {

/// General categories in the order of the table in unicode_categories.cpp.
enum class Category : std::uint8_t {
  kLu,
  kLl,
  kLt,
  kLm,
  kLo,
  kMn,
  kMc,
  kMe,
  kNd,
  kNl,
  kNo,
  kPc,
  kPd,
  kPs,
  kPe,
  kPi,
  kPf,
  kPo,  // clang-format off
  kSm, kSc, kSk, kSo, kZs, kZl, kZp, kCc, kCf, kCs, kCo, kCn  // clang-format on
};
inline constexpr int kNumCategories = 30;

/// "Lu" ... "Cn".
std::string_view name_of(Category category);
Category category_of(char32_t code_point);

/// White_Space (25 code points; U+0085 is one, U+180E and U+200B are not).
bool is_white_space(char32_t code_point);
/// Rust's char::is_numeric: Nd, Nl, No of Unicode 17.0.
bool is_numeric(char32_t code_point);
/// `\w` of Rust's regex crate: Alphabetic, M, Nd, Pc and the two joiners (Unicode Technical Standard 18, annex C).
bool is_word(char32_t code_point);
/// Rust's char::to_lowercase: the full mapping of one code point, without context.
void append_lowercase(std::string& out, char32_t code_point);

/// The code point at `position` of well-formed UTF-8; `position` moves past it.
char32_t decode_utf8(std::string_view text, std::size_t& position);
/// The code point that ends just before `end`, which must be > 0; `end` moves to its first byte.
char32_t decode_utf8_before(std::string_view text, std::size_t& end);
void append_utf8(std::string& out, char32_t code_point);
/// The end of the white space that begins at `begin`; and the start of the white space that ends at `end`, at least
/// `least`. Throw InterruptedError after a signal.
std::size_t behind_blanks(std::string_view text, std::size_t begin);
std::size_t before_blanks(std::string_view text, std::size_t end, std::size_t least);
/// The end of a part of well-formed `text` that begins at `begin`: about ten thousand bytes, or the rest, at a
/// character boundary. Long loops proceed by parts, because this throws InterruptedError after a signal.
std::size_t part_end(std::string_view text, std::size_t begin);
/// Length in bytes of the sequence that starts with this byte of well-formed UTF-8.
inline std::size_t utf8_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

bool is_well_formed(std::string_view bytes);
/// Every maximal subpart of an ill-formed sequence becomes one U+FFFD (The Unicode Standard, 3.9, "best practice"; the
/// same as Python's errors="replace" and Rust's from_utf8_lossy).
std::string replace_ill_formed(std::string_view bytes);

/// A set of code points as sorted, disjoint, inclusive ranges.
class CodePointSet {
 public:
  using Range = std::pair<char32_t, char32_t>;
  CodePointSet() = default;
  explicit CodePointSet(std::vector<Range> ranges);

  static CodePointSet of_category(Category category);
  /// Of a one- or two-letter name such as "L" or "Nd"; empty for an unknown name.
  static CodePointSet of_category(std::string_view name);
  static CodePointSet white_space();
  /// Oniguruma's \w within brackets: Alphabetic, M, Nd, Pc.
  static CodePointSet word();
  /// Oniguruma's \w and \b outside of brackets: these and the six superscripts and fractions of Latin-1.
  static CodePointSet word_outside_brackets();

  void add(char32_t first, char32_t last);
  CodePointSet united(const CodePointSet& other) const;
  CodePointSet intersected(const CodePointSet& other) const;
  CodePointSet complement() const;
  bool is_subset_of(const CodePointSet& other) const;
  bool contains(char32_t code_point) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range>& ranges() const { return ranges_; }
  bool operator==(const CodePointSet&) const = default;

 private:
  std::vector<Range> ranges_;
};

}  // namespace adept::data::tok
