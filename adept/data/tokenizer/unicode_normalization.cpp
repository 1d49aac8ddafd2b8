#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/data/tokenizer/normalizer.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {
namespace {

constexpr utf8proc_ssize_t kMaxParts = 32;  // of one character; U+FDFA has 18

// Characters of Unicode 10 to 16 that decompose, compose or have a combining class (UnicodeData.txt, DerivedAge.txt).
// The normalizer of `tokenizers` has the tables of Unicode 9.0, where they are unassigned and therefore never change.
// clang-format off
constexpr CodePointSet::Range kInert[] = {
    {0x7fd, 0x7fd}, {0x897, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe}, {0xc3c, 0xc3c}, {0xd3b, 0xd3c}, {0xeba, 0xeba},
    {0x1715, 0x1715}, {0x1abf, 0x1ace}, {0x1df6, 0x1dfa}, {0x32ff, 0x32ff}, {0xa7f2, 0xa7f4}, {0xa82c, 0xa82c},
    {0xab69, 0xab69}, {0x105c9, 0x105c9}, {0x105d2, 0x105d2}, {0x105da, 0x105da}, {0x105e4, 0x105e4},
    {0x10781, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10d69, 0x10d6d},
    {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
    {0x1133b, 0x1133b}, {0x11382, 0x11385}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x11391},
    {0x113b8, 0x113b8}, {0x113bb, 0x113bb}, {0x113c2, 0x113c2}, {0x113c5, 0x113c5}, {0x113c7, 0x113c9},
    {0x113ce, 0x113d0}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11935, 0x11935},
    {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
    {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x1611e, 0x16129}, {0x1612f, 0x1612f}, {0x16d63, 0x16d63}, {0x16d67, 0x16d6a},
    {0x16ff0, 0x16ff1}, {0x1ccd6, 0x1ccf9}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
    {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef}, {0x1f16c, 0x1f16c},
    {0x1fbf0, 0x1fbf9},
};
// clang-format on

bool is_inert(char32_t c) {
  if (c < 0x7FD) return false;
  static const CodePointSet set =
      CodePointSet({std::begin(kInert), std::end(kInert)}).united(CodePointSet::of_category(Category::kCn));
  return set.contains(c);
}

int class_of(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Characters without a combining class that composition may join to those before them.
const CodePointSet& joining_starters() {
  static const CodePointSet set = [] {
    std::vector<CodePointSet::Range> ranges = {{0x1161, 0x1175}, {0x11A8, 0x11C2}};  // Hangul vowels, final consonants
    for (utf8proc_int32_t c = 0; c <= 0x10FFFF; ++c) {
      utf8proc_int32_t parts[kMaxParts];
      const auto count = utf8proc_decompose_char(c, parts, kMaxParts, UTF8PROC_DECOMPOSE, nullptr);
      for (utf8proc_ssize_t i = 1; i < count; ++i)
        if (class_of(parts[i]) == 0) ranges.emplace_back(parts[i], parts[i]);
    }
    return CodePointSet(std::move(ranges));
  }();
  return set;
}

/// Normalizes characters one by one. utf8proc orders the marks of a whole text in quadratic time and takes many times
/// the text's memory, so it only decomposes single characters and composes short runs.
class StreamNormalizer {
 public:
  explicit StreamNormalizer(NormalForm form) : composes_(form == NormalForm::kNfc || form == NormalForm::kNfkc) {
    options_ = (composes_ ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | UTF8PROC_STABLE;
    if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options_ |= UTF8PROC_COMPAT;
  }

  void add(char32_t c, std::string& out) {
    utf8proc_int32_t parts[kMaxParts];
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, kMaxParts,
                                               static_cast<utf8proc_option_t>(options_), nullptr);
    ADEPT_CHECK(count >= 0 && count <= kMaxParts, "utf8proc: {} for U+{:04X}", count, static_cast<unsigned>(c));
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      if (class_of(parts[i]) == 0) begin_character(parts[i], out);
      pending_.push_back(parts[i]);
    }
  }

  void flush(std::string& out) {
    order_marks();
    auto length = static_cast<utf8proc_ssize_t>(pending_.size());
    if (composes_) length = utf8proc_normalize_utf32(pending_.data(), length, static_cast<utf8proc_option_t>(options_));
    for (utf8proc_ssize_t i = 0; i < length; ++i)
      append_utf8(out, static_cast<char32_t>(pending_[static_cast<std::size_t>(i)]));
    pending_.clear();
    marks_ = 0;
  }

 private:
  void begin_character(utf8proc_int32_t starter, std::string& out) {
    const bool ends_stretch =
        pending_.size() >= kStretch && !joining_starters().contains(static_cast<char32_t>(starter));
    if (ends_stretch || starter == kBeforeFinalConsonants)
      flush(out);
    else
      order_marks();
    marks_ = pending_.size() + 1;
  }

  // The marks after the last starter by class; equal ones keep their order.
  void order_marks() {
    if (pending_.size() < marks_ + 2) return;
    std::stable_sort(pending_.begin() + static_cast<std::ptrdiff_t>(marks_), pending_.end(), [](auto a, auto b) {
      throw_if_interrupted();
      return class_of(a) < class_of(b);
    });
  }

  static constexpr std::size_t kStretch = 1024;
  // Joins nothing (Unicode 3.12: a final consonant is above it), but utf8proc composes it with the syllable before.
  static constexpr utf8proc_int32_t kBeforeFinalConsonants = 0x11A7;
  bool composes_;
  int options_;
  std::vector<utf8proc_int32_t> pending_;  // decomposed characters
  std::size_t marks_ = 0;                  // start of the unordered ones
};

}  // namespace

std::string unicode_normalized(std::string_view text, NormalForm form) {
  StreamNormalizer normalizer(form);
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    for (const std::size_t end = part_end(text, i); i < end;) {
      std::size_t plain = i;
      while (plain < end && static_cast<unsigned char>(text[plain]) < 0x80) ++plain;
      if (plain > i + 1) {  // ASCII; the next character may combine with its last one
        normalizer.flush(out);
        out += text.substr(i, plain - 1 - i);
        i = plain - 1;
      }
      const std::size_t start = i;
      const char32_t c = decode_utf8(text, i);
      if (is_inert(c)) {
        normalizer.flush(out);
        out += text.substr(start, i - start);
      } else {
        normalizer.add(c, out);
      }
    }
  }
  normalizer.flush(out);
  return out;
}

}  // namespace adept::data::tok
