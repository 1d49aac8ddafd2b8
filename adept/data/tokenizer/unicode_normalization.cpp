#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/data/tokenizer/normalizer.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {
namespace {

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

// utf8proc needs up to eight bytes of memory for one of text, so it gets a stretch at a time.
constexpr std::size_t kStretchBytes = 1 << 16;

// Characters that never change with what stands before them: ASCII, CJK ideographs, kana, Thai consonants.
bool starts_stretch(char32_t c) {
  return c < 0x80 || (c >= 0x3400 && c <= 0x9FFF) || (c >= 0x3041 && c <= 0x3096) || (c >= 0x30A1 && c <= 0x30FA) ||
         (c >= 0x0E01 && c <= 0x0E2E);
}

bool is_inert(char32_t c) {
  if (c < 0x7FD) return false;
  static const CodePointSet set =
      CodePointSet({std::begin(kInert), std::end(kInert)}).united(CodePointSet::of_category(Category::kCn));
  return set.contains(c);
}

void append_normalized(std::string& out, std::string_view text, int options) {
  if (text.empty()) return;
  utf8proc_uint8_t* result = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &result, static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  ADEPT_CHECK(length >= 0, "utf8proc: {}", utf8proc_errmsg(length));
  out.append(reinterpret_cast<const char*>(result), static_cast<std::size_t>(length));
}

}  // namespace

std::string unicode_normalized(std::string_view text, NormalForm form) {
  int options = form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  std::string out;
  out.reserve(text.size());
  std::size_t begin = 0;  // of the stretch that has not been written yet
  bool is_ascii = true;
  const auto flush = [&](std::size_t end) {
    const std::string_view stretch = text.substr(begin, end - begin);
    if (is_ascii)
      out += stretch;
    else
      append_normalized(out, stretch, options);
    begin = end;
    is_ascii = true;
  };
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t start = i;
    const char32_t c = decode_utf8(text, i);
    if (start - begin >= kStretchBytes && starts_stretch(c)) {
      throw_if_interrupted();
      flush(start);
    }
    if (c < 0x80) continue;
    if (is_inert(c)) {
      flush(start);
      out.append(text.substr(start, i - start));
      begin = i;
    } else {
      is_ascii = false;
    }
  }
  flush(text.size());
  return out;
}

}  // namespace adept::data::tok
