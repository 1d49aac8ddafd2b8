#include "adept/data/tokenizer/text_budget.h"

#include "adept/core/error.h"

namespace adept::data::tok {

void TextBudget::charge_growth(std::size_t before, std::size_t after, const std::string& where) {
  if (after <= before) return;
  if (after - before > growth_) fail_growth(where);
  growth_ -= after - before;
}

void TextBudget::fail_growth(const std::string& where) {
  throw DataError("{} makes the text more than 64 times longer, the limit. Use a tokenizer without it.", where);
}

}  // namespace adept::data::tok
