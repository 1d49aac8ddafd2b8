// Training sequences as text on a terminal.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "adept/data/sequences.h"
#include "adept/data/tokenizer/tokenizer.h"

namespace adept::run {

/// Text for a terminal, and whether all of it.
struct PrintableText {
  std::string text;
  bool is_whole = true;
};

/// At most `most` bytes of UTF-8 text, with control characters (C0 without tabs and new lines, DEL, C1) as \xNN, so
/// that they do not affect the terminal.
PrintableText printable(std::string_view text, std::int64_t most);

struct PrintOptions {
  std::int64_t document_bytes = 0;  ///< of each document that are printed; 0: all
  bool color = false;               ///< ANSI colors
};

/// Prints sequences on standard output, document by document: what is not predicted dim, or in double angle quotes.
class TokenPrinter {
 public:
  TokenPrinter(const data::Tokenizer& tokenizer, PrintOptions options) : tokenizer_(tokenizer), options_(options) {}

  /// Sequence `number` of `count`, of the source of this name.
  void print(std::int64_t number, std::int64_t count, const std::string& source, const data::Sequence& sequence) const;

 private:
  // `tokens` start at `begin` in a sequence with these tokens that are not predicted.
  void print_document(std::span<const std::int32_t> tokens, std::int32_t begin,
                      std::span<const data::TokenSpan> hidden) const;
  const char* style(const char* color, const char* plain) const { return options_.color ? color : plain; }

  const data::Tokenizer& tokenizer_;
  PrintOptions options_;
};

}  // namespace adept::run
