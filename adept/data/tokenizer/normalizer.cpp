#include "adept/data/tokenizer/normalizer.h"

#include <vector>

#include "adept/core/signals.h"
#include "adept/data/tokenizer/byte_level.h"
#include "adept/data/tokenizer/pattern.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {
namespace {

// The bytes of the first character after normalization, if the text was at the start of the document.
std::size_t first_character(std::string_view text, std::size_t first_bytes) {
  return first_bytes == 0 || text.empty() ? 0 : utf8_length(text.front());
}

class UnicodeNormalizer final : public Normalizer {
 public:
  UnicodeNormalizer(NormalForm form, std::string where) : Normalizer(std::move(where)), form_(form) {}
  NormalizedText apply(std::string_view text, std::size_t first_bytes, MatchScratch&) const override {
    std::string out = unicode_normalized(text, form_);
    first_bytes = first_character(out, first_bytes);
    return {std::move(out), first_bytes};
  }

 private:
  NormalForm form_;
};

class Lowercase final : public Normalizer {
 public:
  using Normalizer::Normalizer;
  NormalizedText apply(std::string_view text, std::size_t first_bytes, MatchScratch&) const override {
    std::string out;
    out.reserve(text.size() + text.size() / 2);
    for (std::size_t i = 0; i < text.size();)
      for (const std::size_t end = part_end(text, i); i < end;) append_lowercase(out, decode_utf8(text, i));
    first_bytes = first_character(out, first_bytes);
    return {std::move(out), first_bytes};
  }
};

class Strip final : public Normalizer {
 public:
  explicit Strip(const JsonField& field) : Normalizer(field.where()) {
    field.check_keys({"type", "strip_left", "strip_right"});
    left_ = field.at("strip_left").as_bool();
    right_ = field.at("strip_right").as_bool();
  }
  NormalizedText apply(std::string_view text, std::size_t first_bytes, MatchScratch&) const override {
    const std::size_t begin = left_ ? behind_blanks(text, 0) : 0;
    const std::size_t end = right_ ? before_blanks(text, text.size(), begin) : text.size();
    return {std::string(text.substr(begin, end - begin)), first_bytes > begin ? first_bytes - begin : 0};
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
  NormalizedText apply(std::string_view text, std::size_t first_bytes, MatchScratch&) const override {
    if (text.empty()) return {};
    std::string out;
    out.reserve(prefix_.size() + text.size());
    out.append(prefix_).append(text);
    return {std::move(out), first_bytes > 0 ? first_bytes + prefix_.size() : 0};
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
  NormalizedText apply(std::string_view text, std::size_t first_bytes, MatchScratch& scratch) const override {
    NormalizedText result;
    std::string& out = result.text;
    out.reserve(3 * text.size());  // a space becomes U+2581; untouched pages take no memory
    const std::size_t most = text.size() + scratch.budget.growth();
    pattern_.for_each(text, scratch, [&](const Span& span) {
      if (span.is_match)
        out += content_;
      else
        out += text.substr(span.begin, span.end - span.begin);
      if (out.size() > most) TextBudget::fail_growth(where());
      // A replacement belongs to the last character of the match.
      if (span.end <= first_bytes)
        result.first_bytes = out.size();
      else if (!span.is_match && span.begin < first_bytes)
        result.first_bytes = out.size() - (span.end - first_bytes);
    });
    return result;
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class ByteLevelNormalizer final : public Normalizer {
 public:
  using Normalizer::Normalizer;
  NormalizedText apply(std::string_view text, std::size_t first_bytes, MatchScratch&) const override {
    std::string out;
    out.reserve(2 * text.size());
    append_byte_characters(out, text.substr(0, first_bytes));
    const std::size_t first = out.size();
    append_byte_characters(out, text.substr(first_bytes));
    return {std::move(out), first};
  }
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(const JsonField& field) : Normalizer("") {  // its parts are charged instead
    field.check_keys({"type", "normalizers"});
    for (const JsonField& element : field.at("normalizers").elements()) parts_.push_back(make_normalizer(element));
  }
  NormalizedText apply(std::string_view text, std::size_t first_bytes, MatchScratch& scratch) const override {
    if (parts_.empty()) return {std::string(text), first_bytes};
    NormalizedText result = parts_.front()->normalize(text, first_bytes, scratch);
    for (std::size_t i = 1; i < parts_.size(); ++i)
      result = parts_[i]->normalize(result.text, result.first_bytes, scratch);
    return result;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

}  // namespace

NormalizedText Normalizer::normalize(std::string_view text, std::size_t first_bytes, MatchScratch& scratch) const {
  throw_if_interrupted();
  NormalizedText result = apply(text, first_bytes, scratch);
  if (!where_.empty()) scratch.budget.charge_growth(text.size(), result.text.size(), where_);
  return result;
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
