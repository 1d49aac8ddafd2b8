// From Oniguruma's Ruby syntax to PCRE2 (doc/RE of Oniguruma 6.9 against pcre2pattern(3)).
#include <fmt/format.h>

#include <optional>

#include "adept/core/error.h"
#include "adept/data/tokenizer/character_class.h"
#include "adept/data/tokenizer/regex.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

constexpr int kMaxDepth = 50;
constexpr std::size_t kMaxPattern = 64 * 1024;

bool is_ascii_letter(char32_t c) { return (c | 32) >= 'a' && (c | 32) <= 'z' && c < 0x80; }

// The characters that an ASCII letter matches when case is ignored: CaseFolding.txt folds long s to s and the Kelvin
// sign to k.
void add_with_case(CodePointSet& set, char32_t c) {
  set.add(c, c);
  if (!is_ascii_letter(c)) return;
  set.add(c ^ 32, c ^ 32);
  if ((c | 32) == 's') set.add(0x17F, 0x17F);
  if ((c | 32) == 'k') set.add(0x212A, 0x212A);
}

// "ss", "ff", "fi", "fl", "st": one character of the text (sharp s, a ligature) can fold to these two.
bool folds_to_one(char32_t a, char32_t b) {
  const char32_t x = a | 32, y = b | 32;
  return (x == 's' && (y == 's' || y == 't')) || (x == 'f' && (y == 'f' || y == 'i' || y == 'l'));
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string run() {
    if (pattern_.size() > kMaxPattern) refuse("a pattern of more than 64 KiB");
    std::string out = alternatives(false);
    if (!at_end()) refuse("an unmatched )");
    return out;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw DataError(
        "{} is {}, which at byte {} has {}; this build supports literals, classes of code points, general categories "
        "(\\p{{L}}, \\p{{Nd}}), \\s \\d \\w \\b, groups, (?i:...) on ASCII letters, lookaround, greedy, lazy and "
        "possessive repetition. Use a tokenizer without it.",
        where_, io::quote(pattern_), position_, what);
  }

  bool at_end() const { return position_ >= pattern_.size(); }
  bool next_is(std::string_view text) const { return pattern_.substr(position_, text.size()) == text; }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    position_ += text.size();
    return true;
  }
  char32_t take_code_point() {
    if (at_end()) refuse("an unexpected end");
    return decode_utf8(pattern_, position_);
  }

  std::string alternatives(bool ignore_case) {
    if (++depth_ > kMaxDepth) refuse("groups nested deeper than 50 levels");
    if (take("(?i)")) ignore_case = true;
    std::string out;
    char32_t previous_letter = 0;
    while (!at_end() && !next_is(")")) {
      if (take("|")) {
        out += '|';
        previous_letter = 0;
        continue;
      }
      const std::size_t start = position_;
      std::optional<char32_t> letter;
      std::string atom = this->atom(ignore_case, letter);
      if (ignore_case && letter) {
        if (previous_letter != 0 && folds_to_one(previous_letter, *letter)) {
          position_ = start;
          refuse("two letters under (?i) that are the case folding of one character (ss, st, ff, fi, fl)");
        }
      }
      previous_letter = letter.value_or(0);
      out += quantified(std::move(atom));
    }
    --depth_;
    return out;
  }

  std::string quantified(std::string atom) {
    if (at_end()) return atom;
    const char symbol = pattern_[position_];
    if (symbol == '*' || symbol == '+' || symbol == '?') {
      ++position_;
      atom += symbol;
      if (!at_end() && (pattern_[position_] == '?' || pattern_[position_] == '+')) atom += pattern_[position_++];
    } else if (symbol == '{') {
      const std::size_t close = pattern_.find('}', position_);
      const std::string_view inside =
          close == std::string_view::npos ? "" : pattern_.substr(position_ + 1, close - position_ - 1);
      const std::size_t comma = inside.find(',');
      const auto is_number = [](std::string_view text) {
        return text.size() <= 5 && text.find_first_not_of("0123456789") == std::string_view::npos;
      };
      const std::string_view low = inside.substr(0, comma);
      const std::string_view high = comma == std::string_view::npos ? low : inside.substr(comma + 1);
      if (inside.empty() || inside == "," || !is_number(low) || !is_number(high))
        refuse("a { that does not begin a repetition; write \\{");
      if (!low.empty() && !high.empty() && std::stoi(std::string(low)) > std::stoi(std::string(high)))
        refuse("a repetition with reversed bounds");
      position_ = close + 1;
      atom += fmt::format("{{{},{}}}", low.empty() ? "0" : low, high);
      // In Ruby's syntax {n}? makes an exact count optional, and + after braces repeats instead of being possessive.
      if (next_is("+") || (next_is("?") && comma == std::string_view::npos))
        atom = fmt::format("(?:{}){}", atom, pattern_[position_++]);
      else if (take("?"))
        atom += '?';
    } else {
      return atom;
    }
    if (!at_end() && (pattern_[position_] == '*' || pattern_[position_] == '+' || pattern_[position_] == '?' ||
                      pattern_[position_] == '{'))
      refuse("a repetition of a repetition");
    return atom;
  }

  std::string atom(bool ignore_case, std::optional<char32_t>& letter) {
    if (next_is("(")) return group(ignore_case);
    if (next_is("[")) {
      ++position_;
      return to_pcre2_class(bracket(ignore_case));
    }
    if (next_is("\\")) return escape(ignore_case, letter);
    if (take(".")) return "[^\\n]";
    if (next_is("*") || next_is("+") || next_is("?") || next_is("{")) refuse("a repetition of nothing");
    if (take("^")) return "(?m:^)";  // Ruby's anchors match at lines
    if (take("$")) return "(?m:$)";
    return literal(take_code_point(), ignore_case, letter);
  }

  std::string literal(char32_t c, bool ignore_case, std::optional<char32_t>& letter) {
    if (ignore_case) {
      if (c >= 0x80) refuse("a character beyond ASCII under (?i)");
      letter = c;
      CodePointSet set;
      add_with_case(set, c);
      if (is_ascii_letter(c)) return to_pcre2_class(set);
    }
    std::string out;
    if (c >= 0x80 || is_ascii_letter(c) || (c >= '0' && c <= '9'))
      append_utf8(out, c);
    else
      out = fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(c));
    return out;
  }

  std::string group(bool ignore_case) {
    static constexpr std::string_view kOpenings[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    std::string opening;
    for (const std::string_view known : kOpenings)
      if (opening.empty() && take(known)) opening = known;
    if (opening.empty() && take("(?i:")) {
      opening = "(?:";
      ignore_case = true;
    } else if (opening.empty() && take("(?-i:")) {
      opening = "(?:";
      ignore_case = false;
    }
    if (opening.empty()) {
      if (next_is("(?") || next_is("(*")) refuse("an unsupported kind of group");
      position_ += 1;
      opening = "(?:";
    }
    std::string out = opening + alternatives(ignore_case) + ")";
    if (!take(")")) refuse("an unclosed group");
    return out;
  }

  // A class escape such as \s or \p{L}, after the backslash; nothing if it is another escape.
  std::optional<CodePointSet> class_escape(bool in_brackets) {
    if (at_end()) refuse("a \\ at the end");
    const char kind = pattern_[position_];
    CodePointSet set;
    switch (kind) {
      case 's':
      case 'S':
        set = CodePointSet::white_space();
        break;
      case 'd':
      case 'D':
        set = CodePointSet::of_category(Category::kNd);
        break;
      case 'w':
      case 'W':
        set = in_brackets ? CodePointSet::word() : CodePointSet::word_outside_brackets();
        break;
      case 'h':
      case 'H':
        set = CodePointSet({{'0', '9'}, {'a', 'f'}, {'A', 'F'}});
        break;
      case 'p':
      case 'P':
        return property();
      default:
        return std::nullopt;
    }
    ++position_;
    return kind < 'a' ? set.complement() : set;
  }

  CodePointSet property() {
    const bool negated = pattern_[position_] == 'P';
    const std::size_t close = pattern_.find('}', position_);
    if (pattern_.substr(position_ + 1, 1) != "{" || close == std::string_view::npos) refuse("a \\p without {name}");
    std::string_view name = pattern_.substr(position_ + 2, close - position_ - 2);
    const bool inverted = name.substr(0, 1) == "^";
    if (inverted) name.remove_prefix(1);
    CodePointSet set = CodePointSet::of_category(name);
    if (name.size() > 2 || set.empty()) refuse(fmt::format("the property \\p{{{}}}, not a general category", name));
    position_ = close + 1;
    return negated != inverted ? set.complement() : set;
  }

  // An escape for one character, after the backslash.
  char32_t character_escape() {
    const char32_t c = take_code_point();
    switch (c) {
      case 't':
        return '\t';
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 'f':
        return '\f';
      case 'v':
        return '\v';
      case 'a':
        return '\a';
      case 'e':
        return 0x1B;
      case 'x':
        return hexadecimal(next_is("{") ? 0 : 2);
      case 'u':
        return hexadecimal(4);
      default:
        break;
    }
    if (c < 0x80 && (is_ascii_letter(c) || (c >= '0' && c <= '9'))) {
      --position_;
      refuse(fmt::format("the escape \\{}", static_cast<char>(c)));
    }
    return c;
  }

  char32_t hexadecimal(std::size_t digits) {
    std::string_view text = pattern_.substr(position_, digits);
    if (digits == 0) {
      const std::size_t close = pattern_.find('}', position_);
      if (close == std::string_view::npos) refuse("an unclosed \\x{");
      text = pattern_.substr(position_ + 1, close - position_ - 1);
      position_ = close + 1;
    } else {
      position_ += text.size();
    }
    if (text.empty() || text.size() > 8 || (digits != 0 && text.size() != digits) ||
        text.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos)
      refuse("a malformed \\x or \\u");
    const auto value = static_cast<char32_t>(std::stoull(std::string(text), nullptr, 16));
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF) || (digits == 2 && value >= 0x80))
      refuse("a \\x or \\u that is not a code point (write \\x{..} beyond ASCII)");
    return value;
  }

  std::string escape(bool ignore_case, std::optional<char32_t>& letter) {
    ++position_;
    if (const auto set = class_escape(false)) {
      check_case(*set, ignore_case);
      return to_pcre2_class(*set);
    }
    if (take("A")) return "\\A";
    if (take("z")) return "\\z";
    if (next_is("b") || next_is("B")) {
      const bool boundary = pattern_[position_++] == 'b';
      const std::string word = to_pcre2_class(CodePointSet::word_outside_brackets());
      return boundary ? fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word)
                      : fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
    }
    return literal(character_escape(), ignore_case, letter);
  }

  // Case folding reaches beyond ASCII only through letters, marks (U+0345), letter numbers and circled letters.
  void check_case(const CodePointSet& set, bool ignore_case) const {
    if (!ignore_case) return;
    for (const std::string_view name : {"L", "M", "Nl", "So"})
      if (!set.intersected(CodePointSet::of_category(name)).is_subset_of(CodePointSet({{0, 0x7F}})))
        refuse("a class beyond ASCII letters under (?i)");
  }

  // The inside of [...], including the closing bracket.
  CodePointSet bracket(bool ignore_case) {
    if (++depth_ > kMaxDepth) refuse("classes nested deeper than 50 levels");
    const bool negated = take("^");
    if (next_is("]")) refuse("an empty class");
    CodePointSet set, intersection;
    bool has_intersection = false;
    while (!take("]")) {
      if (at_end()) refuse("an unclosed class");
      if (take("&&")) {
        intersection = has_intersection ? intersection.intersected(set) : set;
        has_intersection = true;
        set = {};
      } else if (next_is("[:")) {
        refuse("a POSIX bracket [:name:]");
      } else if (take("[")) {
        set = set.united(bracket(ignore_case));
      } else {
        set = set.united(bracket_item(ignore_case));
      }
    }
    if (has_intersection) set = set.intersected(intersection);
    --depth_;
    return negated ? set.complement() : set;
  }

  CodePointSet bracket_item(bool ignore_case) {
    char32_t first = 0;
    if (take("\\")) {
      if (const auto escaped = class_escape(true)) {
        if (next_is("-") && !next_is("-]")) refuse("a range that begins with a class");
        check_case(*escaped, ignore_case);
        return *escaped;
      }
      first = take("b") ? U'\b' : character_escape();
    } else {
      first = take_code_point();
    }
    char32_t last = first;
    if (next_is("-") && !next_is("-]")) {
      ++position_;
      if (next_is("[") || next_is("&&")) refuse("a range that ends in a class");
      if (take("\\")) {
        if (class_escape(true)) refuse("a range that ends in a class");
        last = take("b") ? U'\b' : character_escape();
      } else {
        last = take_code_point();
      }
      if (last < first) refuse("a range with reversed ends");
    }
    CodePointSet set({{first, last}});
    if (ignore_case) {
      if (last >= 0x80) refuse("a character beyond ASCII under (?i)");
      for (char32_t c = first; c <= last; ++c) add_with_case(set, c);
    }
    return set;
  }

  std::string_view pattern_;
  const std::string& where_;
  std::size_t position_ = 0;
  int depth_ = 0;
};

}  // namespace

std::string translate_pattern(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace adept::data::tok
