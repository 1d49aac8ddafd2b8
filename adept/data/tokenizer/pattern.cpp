#include "adept/data/tokenizer/pattern.h"

namespace adept::data::tok {

Pattern::Pattern(const JsonField& field) {
  field.check_keys({"String", "Regex"});
  const auto literal = field.find("String");
  const auto regex = field.find("Regex");
  if (literal.has_value() == regex.has_value()) field.fail("must have either \"String\" or \"Regex\".");
  if (literal) literal_ = literal->as_string();
  if (regex) regex_.emplace(regex->as_string(), regex->where());
}

void Pattern::find_all(std::string_view text, MatchScratch& scratch, std::vector<Span>& spans) const {
  if (regex_)
    regex_->find_all(text, scratch, spans);
  else
    find_all_literal(literal_, text, spans);
}

}  // namespace adept::data::tok
