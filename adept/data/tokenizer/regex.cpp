#include "adept/data/tokenizer/regex.h"

#include <fmt/format.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <new>

#include "adept/core/error.h"
#include "adept/data/tokenizer/unicode.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

// Backtracking steps: generous for one pass over the text with rewinding, far below what an exponential pattern takes.
constexpr std::uint32_t kBaseMatchLimit = 10'000'000;
constexpr std::size_t kMatchLimitPerByte = 64;
constexpr std::uint32_t kHeapLimitKib = 1024 * 1024;
constexpr std::size_t kJitStackStart = 32 * 1024;
constexpr std::size_t kJitStackMax = 16 * 1024 * 1024;

std::string message_of(int error) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(error, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};

}  // namespace

struct MatchScratch::Buffers {
  std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>> context{pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>> stack;
};

MatchScratch::MatchScratch() : buffers_(std::make_unique<Buffers>()) {
  if (!buffers_->data || !buffers_->context) throw std::bad_alloc();
  // Without a stack of its own (no JIT on this machine) matching falls back to 32 KiB, then to the interpreter.
  buffers_->stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr));
  if (buffers_->stack) pcre2_jit_stack_assign(buffers_->context.get(), nullptr, buffers_->stack.get());
  pcre2_set_heap_limit(buffers_->context.get(), kHeapLimitKib);
}
MatchScratch::~MatchScratch() = default;
MatchScratch::MatchScratch(MatchScratch&&) noexcept = default;
MatchScratch& MatchScratch::operator=(MatchScratch&&) noexcept = default;

struct Regex::Code {
  std::unique_ptr<pcre2_code, Freer<pcre2_code_free>> code;
  std::string where;
  std::string pattern;

  // The next match at or behind `from`; false if there is none.
  bool find(std::string_view text, std::size_t from, pcre2_match_data* data, pcre2_match_context* context) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int status = pcre2_match(code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, context);
    if (status == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its frames on the heap
      status = pcre2_match(code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
    if (status == PCRE2_ERROR_NOMATCH) return false;
    if (status < 0)
      throw DataError(
          "{} is {}: matching a piece of text of {} bytes fails: {}. The pattern backtracks too much; use a tokenizer "
          "with a simpler one, or shorter documents.",
          where, io::quote(pattern), text.size(), message_of(status));
    return true;
  }
};

Regex::Regex(std::string_view pattern, const std::string& where) : code_(std::make_unique<Code>()) {
  const std::string translated = translate_pattern(pattern, where);
  const std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>> context(
      pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), PCRE2_UTF, &error,
                                  &offset, context.get()));
  if (!code_->code)
    throw DataError("{} is {}, which is not a pattern that this build can compile: {}. Use another tokenizer.", where,
                    io::quote(pattern), message_of(error));
  pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE);  // without it the same matches are found, more slowly
  code_->where = where;
  code_->pattern = pattern;
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

namespace {

// Walks over all matches as the iterator of the Rust binding of Oniguruma does: an empty match directly behind the
// previous match does not count. `find(from, begin, end)` gives the next match.
template <typename Find>
void cover(std::string_view text, std::vector<Span>& spans, const Find& find) {
  if (text.empty()) {
    spans.push_back({0, 0, false});
    return;
  }
  std::size_t covered = 0, from = 0, begin = 0, end = 0;
  bool any = false;
  while (from <= text.size() && find(from, begin, end)) {
    if (begin == end && any && end == covered) {
      from += from < text.size() ? utf8_length(text[from]) : 1;
      continue;
    }
    if (covered != begin) spans.push_back({covered, begin, false});
    spans.push_back({begin, end, true});
    covered = from = end;
    any = true;
  }
  if (covered != text.size()) spans.push_back({covered, text.size(), false});
}

}  // namespace

void Regex::find_all(std::string_view text, MatchScratch& scratch, std::vector<Span>& spans) const {
  auto* data = scratch.buffers_->data.get();
  auto* context = scratch.buffers_->context.get();
  const std::size_t limit = kBaseMatchLimit + std::min<std::size_t>(text.size(), 1 << 25) * kMatchLimitPerByte;
  pcre2_set_match_limit(context, static_cast<std::uint32_t>(std::min<std::size_t>(limit, UINT32_MAX)));
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(data);
  cover(text, spans, [&](std::size_t from, std::size_t& begin, std::size_t& end) {
    if (!code_->find(text, from, data, context)) return false;
    begin = found[0];
    end = found[1];
    return true;
  });
}

void find_all_literal(std::string_view needle, std::string_view text, std::vector<Span>& spans) {
  cover(text, spans, [&](std::size_t from, std::size_t& begin, std::size_t& end) {
    begin = text.find(needle, from);
    if (begin == std::string_view::npos) return false;
    end = begin + needle.size();
    return true;
  });
}

}  // namespace adept::data::tok
