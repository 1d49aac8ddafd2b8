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
  std::int32_t begin = 0;
  for (const std::int64_t length : lengths) {
    const auto end = begin + static_cast<std::int32_t>(length);
    fmt::print("{}--- tokens {} to {}{}\n", style(kBold, ""), begin, end - 1, style(kPlain, ""));
    print_document(sequence, begin, end);
    begin = end;
  }
}

void TokenPrinter::print_document(const data::Sequence& sequence, std::int32_t begin, std::int32_t end) const {
  std::int64_t left = options_.document_bytes == 0 ? std::numeric_limits<std::int64_t>::max() : options_.document_bytes;
  bool is_whole = true;
  std::int32_t at = begin;
  const auto print_to = [&](std::int32_t to, bool untrained) {
    if (at >= to || !is_whole) return;
    const auto ids =
        std::span(sequence.tokens).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(to - at));
    const std::string text = tokenizer_.decode(ids);
    const PrintableText shown = printable(text, left);
    fmt::print("{}{}{}", untrained ? style(kDim, "«") : "", shown.text, untrained ? style(kPlain, "»") : "");
    left -= std::min(left, std::ssize(text));
    is_whole = shown.is_whole;
    at = to;
  };
  for (const data::TokenSpan& span : sequence.untrained) {
    if (span.end <= begin || span.begin >= end) continue;
    print_to(std::max(span.begin, begin), false);
    print_to(std::min(span.end, end), true);
  }
  print_to(end, false);
  fmt::print("{}\n", is_whole ? "" : " ...");
}

}  // namespace adept::run
