#include "adept/data/tokenizer/normalizer.h"

#include <vector>

#include "adept/core/signals.h"
#include "adept/data/tokenizer/byte_level.h"
#include "adept/data/tokenizer/pattern.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {
namespace {

std::size_t first_character(const std::string& text) { return text.empty() ? 0 : utf8_length(text[0]); }

class UnicodeNormalizer final : public Normalizer {
 public:
  UnicodeNormalizer(NormalForm form, std::string where) : Normalizer(std::move(where)), form_(form) {}
  void apply(NormalizedText& text, MatchScratch&) const override {
    text.text = unicode_normalized(text.text, form_);
    if (text.first_bytes > 0) text.first_bytes = first_character(text.text);
  }

 private:
  NormalForm form_;
};

class Lowercase final : public Normalizer {
 public:
  using Normalizer::Normalizer;
  void apply(NormalizedText& text, MatchScratch&) const override {
    std::string out;
    out.reserve(text.text.size() + text.text.size() / 2);
    for (std::size_t i = 0; i < text.text.size();) append_lowercase(out, decode_utf8(text.text, i));
    text.text = std::move(out);
    if (text.first_bytes > 0) text.first_bytes = first_character(text.text);
  }
};

class Strip final : public Normalizer {
 public:
  explicit Strip(const JsonField& field) : Normalizer(field.where()) {
    field.check_keys({"type", "strip_left", "strip_right"});
    left_ = field.at("strip_left").as_bool();
    right_ = field.at("strip_right").as_bool();
  }
  void apply(NormalizedText& text, MatchScratch&) const override {
    std::size_t begin = 0, end = text.text.size();
    while (left_ && begin < end) {
      std::size_t next = begin;
      if (!is_white_space(decode_utf8(text.text, next))) break;
      begin = next;
    }
    while (right_ && begin < end) {
      std::size_t before = end;
      if (!is_white_space(decode_utf8_before(text.text, before))) break;
      end = before;
    }
    text.text = text.text.substr(begin, end - begin);
    text.first_bytes = text.first_bytes > begin ? text.first_bytes - begin : 0;
  }

 private:
  bool left_ = false;
  bool right_ = false;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(const JsonField& field) : Normalizer(field.where()) {
    field.check_keys({"type", "prepend"});
    prefix_ = field.at("prepend").as_string();
  }
  void apply(NormalizedText& text, MatchScratch&) const override {
    if (text.text.empty()) return;
    text.text.insert(0, prefix_);
    if (text.first_bytes > 0) text.first_bytes += prefix_.size();
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  explicit Replace(const JsonField& field) : Normalizer(field.where()), pattern_(field.at("pattern")) {
    field.check_keys({"type", "pattern", "content"});
    content_ = field.at("content").as_string();
  }
  void apply(NormalizedText& text, MatchScratch& scratch) const override {
    std::string out;
    out.reserve(text.text.size() + text.text.size() / 2);
    const std::size_t most = text.text.size() + scratch.budget.growth();
    std::size_t first_bytes = 0;
    pattern_.for_each(text.text, scratch, [&](const Span& span) {
      if (span.is_match)
        out += content_;
      else
        out.append(text.text, span.begin, span.end - span.begin);
      if (out.size() > most) TextBudget::fail_growth(where());
      // What replaces a match belongs to the last character of the match.
      if (span.end <= text.first_bytes)
        first_bytes = out.size();
      else if (!span.is_match && span.begin < text.first_bytes)
        first_bytes = out.size() - (span.end - text.first_bytes);
    });
    text.first_bytes = first_bytes;
    text.text = std::move(out);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class ByteLevelNormalizer final : public Normalizer {
 public:
  using Normalizer::Normalizer;
  void apply(NormalizedText& text, MatchScratch&) const override {
    std::string out;
    append_byte_characters(out, std::string_view(text.text).substr(0, text.first_bytes));
    const std::size_t first_bytes = out.size();
    append_byte_characters(out, std::string_view(text.text).substr(text.first_bytes));
    text = {std::move(out), first_bytes};
  }
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(const JsonField& field) : Normalizer("") {  // its parts are charged
    field.check_keys({"type", "normalizers"});
    for (const JsonField& element : field.at("normalizers").elements()) parts_.push_back(make_normalizer(element));
  }
  void apply(NormalizedText& text, MatchScratch& scratch) const override {
    for (const auto& part : parts_) part->normalize(text, scratch);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

}  // namespace

void Normalizer::normalize(NormalizedText& text, MatchScratch& scratch) const {
  throw_if_interrupted();
  const std::size_t before = text.text.size();
  apply(text, scratch);
  if (!where_.empty()) scratch.budget.charge_growth(before, text.text.size(), where_);
}

std::unique_ptr<Normalizer> make_normalizer(const JsonField& field) {
  const JsonField type = field.at("type");
  const std::string& name = type.as_string();
  if (name == "Sequence") return std::make_unique<NormalizerSequence>(field);
  if (name == "Replace") return std::make_unique<Replace>(field);
  if (name == "Prepend") return std::make_unique<Prepend>(field);
  if (name == "Strip") return std::make_unique<Strip>(field);
  const bool is_simple =
      name == "NFC" || name == "NFD" || name == "NFKC" || name == "NFKD" || name == "Lowercase" || name == "ByteLevel";
  if (!is_simple) type.refuse(name, "ByteLevel, Lowercase, NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence, Strip");
  field.check_keys({"type"});
  if (name == "Lowercase") return std::make_unique<Lowercase>(field.where());
  if (name == "ByteLevel") return std::make_unique<ByteLevelNormalizer>(field.where());
  const NormalForm form = name == "NFC"    ? NormalForm::kNfc
                          : name == "NFD"  ? NormalForm::kNfd
                          : name == "NFKC" ? NormalForm::kNfkc
                                           : NormalForm::kNfkd;
  return std::make_unique<UnicodeNormalizer>(form, field.where());
}

}  // namespace adept::data::tok
