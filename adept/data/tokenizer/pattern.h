// The patterns of Split and Replace: {"String": "..."} or {"Regex": "..."}.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/regex.h"

namespace adept::data::tok {

class Pattern {
 public:
  explicit Pattern(const JsonField& field);
  /// Emits spans that cover `text`.
  void for_each(std::string_view text, MatchScratch& scratch, SpanSink emit) const;

 private:
  std::string literal_;
  std::optional<Regex> regex_;
};

}  // namespace adept::data::tok
