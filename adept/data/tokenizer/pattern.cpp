#include "adept/data/tokenizer/pattern.h"

namespace adept::data::tok {

Pattern::Pattern(const JsonField& field) {
  field.check_keys({"String", "Regex"});
  const auto literal = field.find("String");
  const auto regex = field.find("Regex");
  if (literal.has_value() == regex.has_value()) field.fail("expected either \"String\" or \"Regex\".");
  if (literal) literal_ = literal->as_string();
  if (regex) regex_.emplace(regex->as_string(), regex->where());
}

void Pattern::for_each(std::string_view text, MatchScratch& scratch, SpanSink emit) const {
  if (regex_)
    regex_->for_each(text, scratch, emit);
  else
    for_each_literal(literal_, text, emit);
}

}  // namespace adept::data::tok
