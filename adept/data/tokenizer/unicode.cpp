#include "adept/data/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include "adept/core/signals.h"
#include "adept/data/utf8.h"

namespace adept::data::tok {

extern const std::uint32_t kCategoryRuns[];
extern const std::size_t kNumCategoryRuns;

namespace {

constexpr char32_t kMaxCodePoint = 0x10FFFF;
constexpr std::size_t kPartBytes = std::size_t{1} << 16;
constexpr std::array<std::string_view, kNumCategories> kNames = {
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};
// Other_Alphabetic outside of category M: circled and squared Latin letters (PropList.txt).
constexpr CodePointSet::Range kCircledLetters[] = {
    {0x24B6, 0x24E9}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};

const std::vector<std::uint8_t>& category_table() {
  static const std::vector<std::uint8_t> table = [] {
    std::vector<std::uint8_t> filled(kMaxCodePoint + 1);
    for (std::size_t run = 0; run < kNumCategoryRuns; ++run) {
      const std::size_t last = run + 1 < kNumCategoryRuns ? kCategoryRuns[run + 1] >> 5 : filled.size();
      std::fill(filled.begin() + (kCategoryRuns[run] >> 5), filled.begin() + static_cast<std::ptrdiff_t>(last),
                static_cast<std::uint8_t>(kCategoryRuns[run] & 31));
    }
    return filled;
  }();
  return table;
}

// The length of the well-formed sequence at `i`, or 0; then `bad` is the length of the maximal subpart to replace.
std::size_t sequence_length(std::string_view bytes, std::size_t i, std::size_t& bad) {
  const auto byte = [&](std::size_t k) { return k < bytes.size() ? static_cast<unsigned char>(bytes[k]) : 0U; };
  const unsigned first = byte(i);
  bad = 1;
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(i + 1) < low || byte(i + 1) > high) return 0;
  for (bad = 2; bad < length; ++bad)
    if ((byte(i + bad) & 0xC0) != 0x80) return 0;
  return length;
}

}  // namespace

std::string_view name_of(Category category) { return kNames[static_cast<std::size_t>(category)]; }

Category category_of(char32_t code_point) {
  return code_point > kMaxCodePoint ? Category::kCn : static_cast<Category>(category_table()[code_point]);
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const Category category = category_of(c);
  return (category >= Category::kNd && category <= Category::kNo) || (c >= 0x11DE0 && c <= 0x11DE9) ||
         (c >= 0x16FF4 && c <= 0x16FF6);
}

bool is_word(char32_t c) {
  if (c < 0x80) return c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
  const Category category = category_of(c);
  if (category <= Category::kNl || category == Category::kPc || c == 0x200C || c == 0x200D) return true;
  return std::any_of(std::begin(kCircledLetters), std::end(kCircledLetters),
                     [c](const auto& range) { return c >= range.first && c <= range.second; });
}

void append_lowercase(std::string& out, char32_t c) {
  if (c == 0x130) {
    out += "i\xCC\x87";
    return;
  }
  // Letters of Unicode 16 and 17 that older versions of utf8proc lack.
  constexpr std::pair<char32_t, char32_t> kRecent[] = {{0x1C89, 0x1C8A}, {0xA7CB, 0x264},  {0xA7CC, 0xA7CD},
                                                       {0xA7CE, 0xA7CF}, {0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D5},
                                                       {0xA7DA, 0xA7DB}, {0xA7DC, 0x19B}};
  char32_t lower = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
  for (const auto& [from, to] : kRecent)
    if (c == from) lower = to;
  if (c >= 0x10D50 && c <= 0x10D65) lower = c + 0x20;
  if (c >= 0x16EA0 && c <= 0x16EB8) lower = c + 0x1B;
  append_utf8(out, lower);
}

char32_t decode_utf8(std::string_view text, std::size_t& position) {
  const auto byte = [&](std::size_t k) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[position + k]));
  };
  const std::size_t length = utf8_length(text[position]);
  char32_t c = byte(0);
  if (length == 2) c = (c & 0x1F) << 6 | (byte(1) & 0x3F);
  if (length == 3) c = (c & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  if (length == 4) c = (c & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  position += length;
  return c;
}

char32_t decode_utf8_before(std::string_view text, std::size_t& end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  std::size_t position = end;
  return decode_utf8(text, position);
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

std::size_t behind_blanks(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    throw_if_interrupted();
    std::size_t next = begin;
    if (!is_white_space(decode_utf8(text, next))) break;
    begin = next;
  }
  return begin;
}

std::size_t before_blanks(std::string_view text, std::size_t end, std::size_t least) {
  while (end > least) {
    throw_if_interrupted();
    std::size_t start = end;
    if (!is_white_space(decode_utf8_before(text, start))) break;
    end = start;
  }
  return end;
}

std::size_t part_end(std::string_view text, std::size_t begin) {
  throw_if_interrupted();
  std::size_t end = begin + kPartBytes;
  if (end >= text.size()) return text.size();
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

bool is_well_formed(std::string_view bytes) { return !find_invalid_utf8(bytes); }

std::string replace_ill_formed(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  std::size_t bad = 0;
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t length = sequence_length(bytes, i, bad);
    if (length > 0)
      out.append(bytes.substr(i, length));
    else
      out += "\xEF\xBF\xBD";
    i += length > 0 ? length : bad;
  }
  return out;
}

CodePointSet::CodePointSet(std::vector<Range> ranges) : ranges_(std::move(ranges)) {
  std::sort(ranges_.begin(), ranges_.end());
  std::size_t kept = 0;
  for (std::size_t i = 0; i < ranges_.size(); ++i) {
    if (kept > 0 && ranges_[i].first <= ranges_[kept - 1].second + 1)
      ranges_[kept - 1].second = std::max(ranges_[kept - 1].second, ranges_[i].second);
    else
      ranges_[kept++] = ranges_[i];
  }
  ranges_.resize(kept);
}

CodePointSet CodePointSet::of_category(std::string_view name) {
  std::vector<Range> ranges;
  for (std::size_t run = 0; run < kNumCategoryRuns; ++run) {
    const std::string_view category = kNames[kCategoryRuns[run] & 31];
    const char32_t last = run + 1 < kNumCategoryRuns ? (kCategoryRuns[run + 1] >> 5) - 1 : kMaxCodePoint;
    if (!name.empty() && category.substr(0, name.size()) == name) ranges.emplace_back(kCategoryRuns[run] >> 5, last);
  }
  return CodePointSet(std::move(ranges));
}

CodePointSet CodePointSet::of_category(Category category) { return of_category(name_of(category)); }

CodePointSet CodePointSet::white_space() {
  std::vector<Range> ranges;
  for (char32_t c = 0; c <= 0x3000; ++c)
    if (is_white_space(c)) ranges.emplace_back(c, c);
  return CodePointSet(std::move(ranges));
}

CodePointSet CodePointSet::word() {
  CodePointSet set = of_category("L").united(of_category("M"));
  for (const std::string_view name : {"Nd", "Nl", "Pc"}) set = set.united(of_category(name));
  return set.united(CodePointSet({std::begin(kCircledLetters), std::end(kCircledLetters)}));
}

CodePointSet CodePointSet::word_outside_brackets() {
  return word().united(CodePointSet({{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}}));
}

void CodePointSet::add(char32_t first, char32_t last) {
  auto ranges = std::move(ranges_);
  ranges.emplace_back(first, last);
  *this = CodePointSet(std::move(ranges));
}

CodePointSet CodePointSet::united(const CodePointSet& other) const {
  std::vector<Range> all = ranges_;
  all.insert(all.end(), other.ranges_.begin(), other.ranges_.end());
  return CodePointSet(std::move(all));
}

CodePointSet CodePointSet::complement() const {
  std::vector<Range> gaps;
  char32_t next = 0;
  for (const auto& [first, last] : ranges_) {
    if (first > next) gaps.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next <= kMaxCodePoint) gaps.emplace_back(next, kMaxCodePoint);
  return CodePointSet(std::move(gaps));
}

CodePointSet CodePointSet::intersected(const CodePointSet& other) const {
  return complement().united(other.complement()).complement();
}

bool CodePointSet::is_subset_of(const CodePointSet& other) const { return intersected(other) == *this; }

bool CodePointSet::contains(char32_t code_point) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), code_point,
                                      [](char32_t value, const Range& range) { return value < range.first; });
  return after != ranges_.begin() && std::prev(after)->second >= code_point;
}

}  // namespace adept::data::tok
