#include "adept/data/readers/json_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "adept/core/signals.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

constexpr int kMaxDepth = 256;
constexpr std::size_t kMaxShownFault = 40;

// Names of value types, for messages.
constexpr char kObject[] = "an object", kArray[] = "an array", kString[] = "a string", kNumber[] = "a number",
               kBoolean[] = "a boolean", kNull[] = "null";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The type of a value with this first character; nullptr if there is none.
const char* type_of(char first) {
  switch (first) {
    case '{':
      return kObject;
    case '[':
      return kArray;
    case '"':
      return kString;
    case 't':
    case 'f':
      return kBoolean;
    case 'n':
      return kNull;
    default:
      return first == '-' || is_digit(first) ? kNumber : nullptr;
  }
}

void append_utf8(std::string& out, unsigned code_point) {
  const auto add = [&](unsigned byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code_point < 0x80) return add(code_point);
  if (code_point < 0x800) {
    add(0xC0 | code_point >> 6);
  } else {
    if (code_point < 0x10000) {
      add(0xE0 | code_point >> 12);
    } else {
      add(0xF0 | code_point >> 18);
      add(0x80 | (code_point >> 12 & 0x3F));
    }
    add(0x80 | (code_point >> 6 & 0x3F));
  }
  add(0x80 | (code_point & 0x3F));
}

/// Fields that are wanted of a value: the whole value, or what `rest` names below it.
struct Target {
  std::size_t field;
  std::string_view rest;  // empty: the value itself
};
using Targets = std::vector<Target>;

/// Reads one value after another; every function returns false once `fault` is set.
class RecordScanner {
 public:
  /// Collects the names of what it searches in `keys`, unless null.
  RecordScanner(std::string_view line, const std::vector<WantedField>& wanted, std::vector<Field>& fields, Fault& fault,
                KeyList* keys)
      : line_(line), wanted_(wanted), fields_(fields), fault_(fault), keys_(keys), times_(wanted.size(), 0) {}

  bool run() {
    Targets all;
    for (std::size_t i = 0; i < wanted_.size(); ++i) all.push_back({i, wanted_[i].path});
    if (!value(0, all, "")) return false;
    skip_blanks();
    if (!at_end()) return invalid("other data after the object; expected end of input");
    if (type_ != kObject) return stop("not an object", type_);
    for (std::size_t i = 0; i < wanted_.size(); ++i)
      if (times_[i] > 1)
        return stop("repeated field", fmt::format("the key {} {} times", io::quote(wanted_[i].path), times_[i]));
    return true;
  }

 private:
  bool at_end() const { return at_ >= line_.size(); }
  bool next_is(char c) const { return !at_end() && line_[at_] == c; }
  void skip_blanks() {
    while (!at_end() && (line_[at_] == ' ' || line_[at_] == '\t' || line_[at_] == '\r' || line_[at_] == '\n')) ++at_;
  }

  bool stop(const char* reason, std::string found) {
    fault_ = {reason, std::move(found), ""};
    return false;
  }
  bool invalid(const std::string& what) {
    const auto rest = at_end() ? std::string_view() : line_.substr(at_, kMaxShownFault);
    return stop("invalid JSON", fmt::format("an error at byte {}: {}{}", at_, what,
                                            rest.empty() ? " (the line ends)" : ", found " + io::quote(rest)));
  }

  // `prefix` names the value for messages: "meta.", or nothing for the record itself.
  bool value(int depth, const Targets& targets, const std::string& prefix) {
    throw_if_interrupted();
    skip_blanks();
    const char* type = at_end() ? nullptr : type_of(line_[at_]);
    if (type == nullptr) return invalid("expected a value");
    if (depth == 0) type_ = type;
    if (depth >= kMaxDepth) return stop("invalid JSON", fmt::format("nesting beyond {} levels", kMaxDepth));
    const std::size_t start = at_;
    Field* text = nullptr;
    for (const Target& target : targets) note_value(target, type, text);
    if (!plain_value(depth, type, targets, prefix, text)) return false;
    for (const Target& target : targets) keep_value(target, type, line_.substr(start, at_ - start), text);
    return true;
  }

  bool plain_value(int depth, const char* type, const Targets& targets, const std::string& prefix, Field* text) {
    if (type == kObject) return object(depth + 1, targets, prefix);
    if (type == kArray) return array(depth + 1);
    if (type == kNumber) return number();
    if (type == kNull) return word("null");
    if (type == kBoolean) return word(next_is('t') ? "true" : "false");
    return string(text == nullptr ? nullptr : &text->text);
  }

  // Sets `text` to a field that wants the string.
  void note_value(const Target& target, const char* type, Field*& text) {
    Field& field = fields_[target.field];
    if (!target.rest.empty()) {
      if (type == kNull && field.state == Field::State::kMissing) field.state = Field::State::kNull;
      return;
    }
    ++times_[target.field];
    const WantedField::Form form = wanted_[target.field].form;
    const bool is_wanted = type == kString || form == WantedField::Form::kJson ||
                           (form == WantedField::Form::kScalar && (type == kNumber || type == kBoolean));
    field.state = type == kNull ? Field::State::kNull : is_wanted ? Field::State::kValue : Field::State::kOtherType;
    if (field.state == Field::State::kOtherType) field.type = type;
    if (type == kString && form != WantedField::Form::kJson && text == nullptr) text = &field;
  }

  // Sets the field, unless string() has set it.
  void keep_value(const Target& target, const char* type, std::string_view json, const Field* text) {
    Field& field = fields_[target.field];
    if (!target.rest.empty() || field.state != Field::State::kValue || &field == text) return;
    if (type == kString && wanted_[target.field].form != WantedField::Form::kJson) {
      field.text = text->text;
    } else if (json.size() <= kMaxJsonValueBytes) {
      field.text = json;
    } else {
      field.state = Field::State::kOtherType;
      field.type = fmt::format("{} of more than {} bytes", type, kMaxJsonValueBytes);
    }
  }

  bool object(int depth, const Targets& targets, const std::string& prefix) {
    const bool is_searched =
        std::any_of(targets.begin(), targets.end(), [](const Target& target) { return !target.rest.empty(); });
    ++at_;
    skip_blanks();
    if (next_is('}')) return ++at_, true;
    std::string name;
    for (;;) {
      skip_blanks();
      if (!next_is('"')) return invalid("expected a key in double quotes");
      if (!string(is_searched ? &name : nullptr)) return false;
      skip_blanks();
      if (!next_is(':')) return invalid("expected a colon after the key");
      ++at_;
      Targets inner;
      if (is_searched) {
        if (keys_ != nullptr) keys_->add(prefix + name);
        inner = targets_of(targets, name);
      }
      if (!value(depth, inner, inner.empty() ? "" : prefix + name + ".")) return false;
      skip_blanks();
      if (next_is('}')) return ++at_, true;
      if (!next_is(',')) return invalid("expected a comma or }");
      ++at_;
    }
  }

  // What is wanted of the member `name`. A key may itself contain dots.
  static Targets targets_of(const Targets& targets, std::string_view name) {
    Targets inner;
    for (const Target& target : targets)
      if (target.rest == name)
        inner.push_back({target.field, ""});
      else if (target.rest.size() > name.size() && target.rest.starts_with(name) && target.rest[name.size()] == '.')
        inner.push_back({target.field, target.rest.substr(name.size() + 1)});
    return inner;
  }

  bool array(int depth) {
    ++at_;
    skip_blanks();
    if (next_is(']')) return ++at_, true;
    for (;;) {
      if (!value(depth, {}, "")) return false;
      skip_blanks();
      if (next_is(']')) return ++at_, true;
      if (!next_is(',')) return invalid("expected a comma or ]");
      ++at_;
    }
  }

  bool word(std::string_view expected) {
    if (line_.substr(at_, expected.size()) != expected) return invalid("expected a value");
    at_ += expected.size();
    return true;
  }

  bool digits() {
    const std::size_t start = at_;
    while (!at_end() && is_digit(line_[at_])) ++at_;
    return at_ > start;
  }

  bool number() {
    const std::size_t start = at_;
    if (next_is('-')) ++at_;
    if (next_is('0'))
      ++at_;
    else if (!digits())
      return invalid("expected a digit");
    if (next_is('.') && (++at_, !digits())) return invalid("expected a digit after the point");
    if (next_is('e') || next_is('E')) {
      ++at_;
      if (next_is('+') || next_is('-')) ++at_;
      if (!digits()) return invalid("expected a digit in the exponent");
    }
    const std::string_view token = line_.substr(start, at_ - start);
    if (token.size() > 300 || token.find_first_of("eE") != std::string_view::npos)
      if (!std::isfinite(std::strtod(std::string(token).c_str(), nullptr))) {
        at_ = start;
        return invalid("a number beyond 1.8e308, the largest of a double");
      }
    return true;
  }

  // Appends the decoded string to `out`, if given.
  bool string(std::string* out) {
    if (out != nullptr) out->clear();
    const std::size_t start = at_++;
    for (;;) {
      const std::size_t run = at_;
      at_ = end_of_plain_text(line_, at_);
      if (out != nullptr) {
        // One allocation: a text may be large.
        if (next_is('\\') && run == start + 1) out->reserve(raw_length(start));
        out->append(line_.substr(run, at_ - run));
      }
      if (at_end()) {
        at_ = start;
        return invalid("a string without a closing quote");
      }
      if (line_[at_] == '"') return ++at_, true;
      if (line_[at_] != '\\') return invalid("a control character in a string, which must be escaped");
      if (!escape(out)) return false;
    }
  }

  // An upper bound for the length of the string that starts at `start`.
  std::size_t raw_length(std::size_t start) const {
    std::size_t end = start + 1;
    while (end < line_.size() && line_[end] != '"') end += line_[end] == '\\' ? 2 : 1;
    return std::min(end, line_.size()) - start;
  }

  bool escape(std::string* out) {
    constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const char kind = at_ + 1 < line_.size() ? line_[at_ + 1] : '\0';
    if (const auto which = kNames.find(kind); kind != '\0' && which != std::string_view::npos) {
      if (out != nullptr) *out += kMeanings[which];
      at_ += 2;
      return true;
    }
    const int unit = kind == 'u' ? hexadecimal(at_ + 2) : -1;
    if (unit < 0) return invalid("an unknown escape in a string");
    auto code_point = static_cast<unsigned>(unit);
    std::size_t length = 6;
    if (unit >= 0xD800 && unit <= 0xDFFF) {
      const int low = line_.substr(at_ + 6, 2) == "\\u" ? hexadecimal(at_ + 8) : -1;
      if (unit >= 0xDC00 || low < 0xDC00 || low > 0xDFFF) return invalid("half of a surrogate pair");
      code_point = 0x10000 + ((code_point & 0x3FF) << 10 | (static_cast<unsigned>(low) & 0x3FF));
      length = 12;
    }
    if (out != nullptr) append_utf8(*out, code_point);
    at_ += length;
    return true;
  }

  // Four digits, or -1.
  int hexadecimal(std::size_t at) const {
    if (at + 4 > line_.size()) return -1;
    int number = 0;
    for (const char c : line_.substr(at, 4)) {
      const int digit = is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
      if (digit < 0) return -1;
      number = number * 16 + digit;
    }
    return number;
  }

  std::string_view line_;
  const std::vector<WantedField>& wanted_;
  std::vector<Field>& fields_;
  Fault& fault_;
  KeyList* keys_;
  std::vector<int> times_;  // of each wanted field
  std::size_t at_ = 0;
  const char* type_ = nullptr;  // of the whole
};

}  // namespace

std::size_t end_of_plain_text(std::string_view text, std::size_t at) {
  // Eight bytes at a time: the lowest high bit of `stops` marks the first byte that is looked for.
  constexpr std::uint64_t ones = 0x0101010101010101ULL, high_bits = 0x8080808080808080ULL;
  const auto zeros_of = [](std::uint64_t word) { return (word - ones) & ~word; };
  for (; at + sizeof(std::uint64_t) <= text.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + at, sizeof word);
    const std::uint64_t controls = (word - 0x20 * ones) & ~word;
    const std::uint64_t stops = (zeros_of(word ^ ('"' * ones)) | zeros_of(word ^ ('\\' * ones)) | controls) & high_bits;
    if (stops != 0) break;
  }
  while (at < text.size() && text[at] != '"' && text[at] != '\\' && static_cast<unsigned char>(text[at]) >= 0x20) ++at;
  return at;
}

bool read_json_record(std::string_view text, const WantedFields& wanted, Record& record, Fault& fault) {
  record.reset(wanted);
  if (!RecordScanner(text, wanted.fields, record.fields, fault, nullptr).run()) return false;
  if (!record.has_missing()) return true;
  KeyList keys("keys");  // again, as they are seldom needed
  RecordScanner(text, wanted.fields, record.fields, fault, &keys).run();
  record.keys = keys.text();
  record.fallback.resize(wanted.fallback.size());
  return wanted.fallback.empty() || RecordScanner(text, wanted.fallback, record.fallback, fault, nullptr).run();
}

}  // namespace adept::data
