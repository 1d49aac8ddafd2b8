#include "adept/data/tokenizer/character_class.h"

#include <fmt/format.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "adept/core/error.h"

namespace adept::data::tok {
namespace {

constexpr std::size_t kFewRanges = 12;

// Every code point to which a Unicode version may assign a property: planes 4 to 13 are empty, 15 and 16 are private.
const std::string& all_code_points() {
  static const std::string text = [] {
    std::string all;
    all.reserve(1'300'000);
    for (char32_t c = 0; c <= 0xEFFFF; ++c)
      if ((c < 0xD800 || c > 0xDFFF) && (c < 0x40000 || c > 0xDFFFF)) append_utf8(all, c);
    return all;
  }();
  return text;
}

// The code points that \p{name} matches in this PCRE2, found by matching each one.
CodePointSet scan_property(std::string_view name) {
  const std::string& all = all_code_points();
  const std::string pattern = fmt::format("\\p{{{}}}+", name);
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF, &error, &offset, nullptr),
      &pcre2_code_free);
  ADEPT_CHECK(code != nullptr, "PCRE2 does not support {}", pattern);
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(pcre2_match_data_create(1, nullptr),
                                                                                 &pcre2_match_data_free);
  std::vector<CodePointSet::Range> ranges;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(all.data());
  std::size_t position = 0;
  while (pcre2_match(code.get(), subject, all.size(), position, PCRE2_NO_UTF_CHECK, data.get(), nullptr) >= 0) {
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(data.get());
    std::size_t first = found[0], last = found[1];
    position = last;
    ranges.emplace_back(decode_utf8(all, first), decode_utf8_before(all, last));
  }
  return CodePointSet(std::move(ranges));
}

const CodePointSet& native_property(const std::string& name) {
  static std::mutex mutex;
  static std::map<std::string, CodePointSet> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(name);
  return found != known.end() ? found->second : known.emplace(name, scan_property(name)).first->second;
}

CodePointSet without_surrogates(const CodePointSet& set) {
  return set.intersected(CodePointSet({{0xD800, 0xDFFF}}).complement());
}

struct Items {
  std::string text;
  std::size_t count = 0;
};

// The inside of a class that matches `set`, which contains no surrogates.
Items items_of(const CodePointSet& set) {
  Items items;
  CodePointSet rest = set;
  for (const std::string name : {"L", "M", "N", "P", "S", "Lu", "Ll", "Lt", "Lm", "Lo"}) {
    if (rest.ranges().size() <= kFewRanges) break;
    if (!CodePointSet::of_category(name).is_subset_of(set)) continue;
    const CodePointSet& native = native_property(name);
    if (native.empty() || !native.is_subset_of(set)) continue;
    rest = rest.intersected(native.complement());
    items.text += fmt::format("\\p{{{}}}", name);
    ++items.count;
  }
  for (const auto& [first, last] : rest.ranges()) {
    items.text += first == last ? fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(first))
                                : fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<std::uint32_t>(first),
                                              static_cast<std::uint32_t>(last));
    ++items.count;
  }
  return items;
}

}  // namespace

std::string to_pcre2_class(const CodePointSet& set) {
  const CodePointSet inside = without_surrogates(set);
  const CodePointSet outside = without_surrogates(set.complement());
  if (inside.empty()) return "(?!)";
  if (outside.empty()) return "[\\x{0}-\\x{10ffff}]";
  const Items positive = items_of(inside), negative = items_of(outside);
  return positive.count <= negative.count ? "[" + positive.text + "]" : "[^" + negative.text + "]";
}

}  // namespace adept::data::tok
