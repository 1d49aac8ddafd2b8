#include "adept/data/readers/reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "adept/data/utf8.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

constexpr std::size_t kKeptBytes = std::size_t{1} << 20;
constexpr std::int64_t kMaxShownKeys = 8;

void reset_fields(std::vector<Field>& fields, std::size_t count) {
  fields.resize(count);
  for (Field& field : fields) {
    field.state = Field::State::kMissing;
    clear_or_release(field.text);
  }
}

}  // namespace

bool Record::has_missing() const {
  return std::any_of(fields.begin(), fields.end(),
                     [](const Field& field) { return field.state == Field::State::kMissing; });
}

void Record::reset(const WantedFields& wanted) {
  reset_fields(fields, wanted.fields.size());
  reset_fields(fallback, 0);
  keys.clear();
}

void KeyList::add(std::string_view name) {
  if (++count_ <= kMaxShownKeys)
    names_ += (names_.empty() ? "" : ", ") + io::quote(name);
  else if (count_ == kMaxShownKeys + 1)
    names_ += ", ...";
}

std::string KeyList::text() const {
  return names_.empty() ? fmt::format("a record without {}", noun_) : fmt::format("the {} {}", noun_, names_);
}

void clear_or_release(std::string& text) {
  if (text.capacity() > kKeptBytes)
    std::string().swap(text);
  else
    text.clear();
}

bool check_utf8(std::string_view text, Fault& fault, std::size_t* at) {
  const auto invalid = find_invalid_utf8(text);
  if (!invalid) return true;
  if (at != nullptr) *at = *invalid;
  const std::size_t shown = std::min<std::size_t>(*invalid, 20);
  fault = {"invalid UTF-8", fmt::format("invalid UTF-8 after {}", io::quote(text.substr(*invalid - shown, shown))),
           "UTF-8 text"};
  return false;
}

}  // namespace adept::data
