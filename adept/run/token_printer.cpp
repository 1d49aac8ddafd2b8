#include "adept/run/token_printer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include "adept/core/progress.h"

namespace adept::run {
namespace {

constexpr char kBold[] = "\x1b[1m", kDim[] = "\x1b[2m", kPlain[] = "\x1b[0m";

// What is not predicted: untrained tokens, and those without context at the start of the sequence and of each document.
std::vector<data::TokenSpan> not_predicted(const data::Sequence& sequence) {
  std::vector<data::TokenSpan> spans = sequence.untrained;
  spans.push_back({0, static_cast<std::int32_t>(sequence.first_target)});
  for (const std::int32_t start : sequence.document_starts) spans.push_back({start, start + 1});
  std::ranges::sort(spans, {}, &data::TokenSpan::begin);
  std::vector<data::TokenSpan> merged;
  for (const data::TokenSpan& span : spans)
    if (merged.empty() || merged.back().end < span.begin)
      merged.push_back(span);
    else
      merged.back().end = std::max(merged.back().end, span.end);
  return merged;
}

// The text of tokens [begin, end): a decoder may remove a space in front of the first token that it is given.
std::string text_after(const data::Tokenizer& tokenizer, std::span<const std::int32_t> tokens, std::size_t begin,
                       std::size_t end) {
  if (begin > 0) {
    const std::string before = tokenizer.decode(tokens.subspan(begin - 1, 1));
    const std::string text = tokenizer.decode(tokens.subspan(begin - 1, end - begin + 1));
    if (text.starts_with(before)) return text.substr(before.size());
  }
  return tokenizer.decode(tokens.subspan(begin, end - begin));
}

}  // namespace

PrintableText printable(std::string_view text, std::int64_t most) {
  std::size_t size = std::min(text.size(), static_cast<std::size_t>(most));
  while (size < text.size() && size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0U) == 0x80U) --size;
  PrintableText result{.text = {}, .is_whole = size == text.size()};
  for (std::size_t i = 0; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < size ? static_cast<unsigned char>(text[i + 1]) : 0U;
    if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F) {
      result.text += fmt::format("\\x{:02x}", byte);
    } else if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {  // U+0080 to U+009F
      result.text += fmt::format("\\x{:02x}", next);
      ++i;
    } else {
      result.text += text[i];
    }
  }
  return result;
}

void TokenPrinter::print(std::int64_t number, std::int64_t count, const std::string& source,
                         const data::Sequence& sequence) const {
  const std::vector<std::int64_t> lengths = data::document_lengths(sequence);
  fmt::print("\n{}sequence {} of {}: {}, {} tokens, {} predicted, {} documents{}\n", style(kBold, ""), number, count,
             source, format_count(std::ssize(sequence.tokens)), format_count(sequence.num_targets()), lengths.size(),
             style(kPlain, ""));
  const std::vector<data::TokenSpan> hidden = not_predicted(sequence);
  std::int32_t begin = 0;
  for (const std::int64_t length : lengths) {
    const auto end = begin + static_cast<std::int32_t>(length);
    fmt::print("{}--- tokens {} to {}{}\n", style(kBold, ""), begin, end - 1, style(kPlain, ""));
    print_document(
        std::span(sequence.tokens).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(length)), begin,
        hidden);
    begin = end;
  }
}

void TokenPrinter::print_document(std::span<const std::int32_t> tokens, std::int32_t begin,
                                  std::span<const data::TokenSpan> hidden) const {
  std::int64_t left = options_.document_bytes == 0 ? std::numeric_limits<std::int64_t>::max() : options_.document_bytes;
  bool is_whole = true;
  const auto end = begin + static_cast<std::int32_t>(tokens.size());
  std::int32_t at = begin;
  const auto print_to = [&](std::int32_t to, bool is_hidden) {
    if (at >= to || !is_whole) return;
    const std::string text =
        text_after(tokenizer_, tokens, static_cast<std::size_t>(at - begin), static_cast<std::size_t>(to - begin));
    const PrintableText shown = printable(text, left);
    fmt::print("{}{}{}", is_hidden ? style(kDim, "«") : "", shown.text, is_hidden ? style(kPlain, "»") : "");
    left -= std::min(left, std::ssize(text));
    is_whole = shown.is_whole;
    at = to;
  };
  for (const data::TokenSpan& span : hidden) {
    if (span.end <= begin || span.begin >= end) continue;
    print_to(std::max(span.begin, begin), false);
    print_to(std::min(span.end, end), true);
  }
  print_to(end, false);
  fmt::print("{}\n", is_whole ? "" : " ...");
}

}  // namespace adept::run
