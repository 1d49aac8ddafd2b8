#include "adept/data/tokenizer/regex.h"

#include <fmt/format.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/data/tokenizer/unicode.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

// Limits of one attempt before its steps are counted: more than a piece of real text requires.
constexpr std::size_t kNearBytes = 384;
constexpr std::size_t kNearStarts = 64;
constexpr std::uint32_t kNearSteps = 128;
constexpr std::uint64_t kStepsBetweenLooks = std::uint64_t{1} << 20;
constexpr std::uint32_t kHeapLimitKib = 256 * 1024;  // PCRE2 doubles its heap, and sees no signal while it copies it
constexpr std::size_t kJitStackStart = 32 * 1024;
constexpr std::size_t kJitStackMax = 16 * 1024 * 1024;
constexpr std::size_t kMaxKeptString = 1 << 20;

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
  // Without its own stack (no JIT on this machine), matching falls back to 32 KiB, then to the interpreter.
  buffers_->stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr));
  if (buffers_->stack) pcre2_jit_stack_assign(buffers_->context.get(), nullptr, buffers_->stack.get());
  pcre2_set_heap_limit(buffers_->context.get(), kHeapLimitKib);
}
MatchScratch::~MatchScratch() = default;
MatchScratch::MatchScratch(MatchScratch&&) noexcept = default;
MatchScratch& MatchScratch::operator=(MatchScratch&&) noexcept = default;

MatchScratch::Lease::Lease(MatchScratch& scratch) : scratch_(scratch) {
  if (scratch.strings_.empty()) scratch.strings_.push_back(std::make_unique<std::string>());
  string_ = std::move(scratch.strings_.back());
  scratch.strings_.pop_back();
  string_->clear();
}

MatchScratch::Lease::~Lease() {
  if (string_->capacity() <= kMaxKeptString) scratch_.strings_.push_back(std::move(string_));
}

namespace {

/// Charges the steps of a counted match; pcre2_match calls it before each item of the pattern.
struct StepCounter {
  std::uint64_t& left;
  std::size_t position;
  std::uint64_t next_look;  // checks for a signal at this many remaining steps

  static int count(pcre2_callout_block* block, void* data) {
    auto& counter = *static_cast<StepCounter*>(data);
    const std::size_t position = block->current_position;
    const std::uint64_t steps =
        1 + (position > counter.position ? position - counter.position : counter.position - position);
    counter.position = position;
    if (steps > counter.left) return PCRE2_ERROR_MATCHLIMIT;
    counter.left -= steps;
    if (counter.left < counter.next_look) {
      counter.next_look = counter.left - std::min(counter.left, kStepsBetweenLooks);
      if (pending_signal() != 0) return PCRE2_ERROR_CALLOUT;
    }
    return 0;
  }
};

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

using CodePointer = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;

CodePointer compile(const std::string& translated, std::uint32_t options, std::uint32_t jit_options, int& error) {
  const std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>> context(
      pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  PCRE2_SIZE offset = 0;
  CodePointer code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 PCRE2_UTF | options, &error, &offset, context.get()));
  if (code) pcre2_jit_compile(code.get(), jit_options);  // without it, matching is slower but equal
  return code;
}

}  // namespace

struct Regex::Code {
  CodePointer near;             // with a limit on where a match may start
  mutable CodePointer counted;  // reports every step; created on demand
  mutable std::once_flag once;
  std::string translated;
  std::string where;
  std::string pattern;

  // The next match at or after `from`; false if there is none.
  bool find(std::string_view text, std::size_t from, MatchScratch::Buffers& buffers, TextBudget& budget) const {
    auto* context = buffers.context.get();
    pcre2_set_match_limit(context, kNearSteps);
    while (from <= text.size()) {
      std::size_t end = text.size();
      if (text.size() - from > kNearBytes) {
        end = from + kNearBytes;
        while (continues_character(text[end])) --end;
      }
      // The limit is the last byte of a character: PCRE2's JIT also tries the byte after it.
      std::size_t limit = from + kNearStarts;
      while (limit + 1 < text.size() && continues_character(text[limit + 1])) ++limit;
      pcre2_set_offset_limit(context, limit);
      const std::uint32_t partial = end < text.size() ? PCRE2_PARTIAL_HARD : 0;
      const int status = pcre2_match(near.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), end, from,
                                     PCRE2_NO_UTF_CHECK | partial, buffers.data.get(), context);
      if (status >= 0) return true;
      if (status == PCRE2_ERROR_NOMATCH) {  // at none of the starts
        throw_if_interrupted();
        from = limit + 1;
        continue;
      }
      // No match starts before one that requires a longer view.
      const std::size_t start = status == PCRE2_ERROR_PARTIAL ? pcre2_get_ovector_pointer(buffers.data.get())[0] : from;
      if (start == from) return find_counted(text, from, buffers, budget);
      from = start;
    }
    return false;
  }

  bool find_counted(std::string_view text, std::size_t from, MatchScratch::Buffers& buffers, TextBudget& budget) const {
    throw_if_interrupted();
    std::call_once(once, [&] {
      int error = 0;
      counted = compile(translated, PCRE2_AUTO_CALLOUT, PCRE2_JIT_COMPLETE, error);
    });
    if (!counted) throw std::bad_alloc();
    auto* context = buffers.context.get();
    StepCounter counter{budget.match_steps(), from, budget.match_steps()};
    pcre2_set_callout(context, &StepCounter::count, &counter);
    pcre2_set_match_limit(context, UINT32_MAX);
    pcre2_set_offset_limit(context, PCRE2_UNSET);
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const auto match = [&](std::uint32_t options) {
      return pcre2_match(counted.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | options, buffers.data.get(),
                         context);
    };
    int status = match(0);
    if (status == PCRE2_ERROR_JIT_STACKLIMIT) status = match(PCRE2_NO_JIT);  // which keeps its frames on the heap
    pcre2_set_callout(context, nullptr, nullptr);
    pcre2_set_match_limit(context, kNearSteps);
    throw_if_interrupted();
    if (status == PCRE2_ERROR_NOMATCH) return false;
    if (status < 0)
      throw DataError(
          "{} is {}: matching a piece of text of {} bytes fails: {}. The pattern backtracks too much; use a tokenizer "
          "with a simpler pattern, or shorter documents.",
          where, io::quote(pattern), text.size(), message_of(status));
    return true;
  }
};

Regex::Regex(std::string_view pattern, const std::string& where) : code_(std::make_unique<Code>()) {
  code_->translated = translate_pattern(pattern, where);
  code_->where = where;
  code_->pattern = pattern;
  int error = 0;
  code_->near = compile(code_->translated, PCRE2_USE_OFFSET_LIMIT, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD, error);
  if (!code_->near)
    throw DataError("{} is {}, a pattern that this build cannot compile: {}. Use another tokenizer.", where,
                    io::quote(pattern), message_of(error));
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

namespace {

// Iterates over all matches like the iterator of Oniguruma's Rust binding: an empty match directly after the previous
// match does not count. `find(from, begin, end)` returns the next match.
template <typename Find>
void cover(std::string_view text, SpanSink emit, const Find& find) {
  if (text.empty()) {
    emit({0, 0, false});
    return;
  }
  std::size_t covered = 0, from = 0, begin = 0, end = 0;
  bool any = false;
  while (from <= text.size() && find(from, begin, end)) {
    throw_if_interrupted();
    if (begin == end && any && end == covered) {
      from += from < text.size() ? utf8_length(text[from]) : 1;
      continue;
    }
    if (covered != begin) emit({covered, begin, false});
    emit({begin, end, true});
    covered = from = end;
    any = true;
  }
  if (covered != text.size()) emit({covered, text.size(), false});
}

}  // namespace

void Regex::for_each(std::string_view text, MatchScratch& scratch, SpanSink emit) const {
  auto& buffers = *scratch.buffers_;
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(buffers.data.get());
  cover(text, emit, [&](std::size_t from, std::size_t& begin, std::size_t& end) {
    if (!code_->find(text, from, buffers, scratch.budget)) return false;
    begin = found[0];
    end = found[1];
    return true;
  });
}

void for_each_literal(std::string_view needle, std::string_view text, SpanSink emit) {
  cover(text, emit, [&](std::size_t from, std::size_t& begin, std::size_t& end) {
    begin = text.find(needle, from);
    if (begin == std::string_view::npos) return false;
    end = begin + needle.size();
    return true;
  });
}

}  // namespace adept::data::tok
