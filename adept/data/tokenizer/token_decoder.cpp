#include "adept/data/tokenizer/token_decoder.h"

#include <optional>

#include "adept/data/tokenizer/byte_level.h"
#include "adept/data/tokenizer/metaspace.h"
#include "adept/data/tokenizer/pattern.h"
#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {
namespace {

class ByteLevelDecoder final : public TokenDecoder {
 public:
  explicit ByteLevelDecoder(const JsonField& field) {
    field.check_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  }
  void decode(std::vector<std::string>& tokens, MatchScratch&) const override {
    std::string bytes;
    for (const std::string& token : tokens) bytes += bytes_of_characters(token).value_or(token);
    tokens = {is_well_formed(bytes) ? std::move(bytes) : replace_ill_formed(bytes)};
  }
};

// The byte of a token such as <0xE2>. Rust's from_str_radix allows a plus sign.
std::optional<char> fallback_byte(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return std::nullopt;
  int value = 0;
  for (std::size_t i = token[3] == '+' ? 4 : 3; i < 5; ++i) {
    const char c = token[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c - 'A' + 10;
    if (digit < 0 || digit > 15 || (digit >= 10 && !((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))))
      return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<char>(static_cast<unsigned char>(value));
}

class ByteFallback final : public TokenDecoder {
 public:
  explicit ByteFallback(const JsonField& field) { field.check_keys({"type"}); }
  void decode(std::vector<std::string>& tokens, MatchScratch&) const override {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (is_well_formed(bytes))
        out.push_back(bytes);
      else
        out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const auto byte = fallback_byte(token)) {
        bytes += *byte;
      } else {
        flush();
        out.push_back(std::move(token));
      }
    }
    flush();
    tokens = std::move(out);
  }
};

class Fuse final : public TokenDecoder {
 public:
  explicit Fuse(const JsonField& field) { field.check_keys({"type"}); }
  void decode(std::vector<std::string>& tokens, MatchScratch&) const override {
    std::string joined;
    for (const std::string& token : tokens) joined += token;
    tokens = {std::move(joined)};
  }
};

// Removes up to `start` and `stop` leading and trailing occurrences of one character from every token.
class StripDecoder final : public TokenDecoder {
 public:
  explicit StripDecoder(const JsonField& field) {
    field.check_keys({"type", "content", "start", "stop"});
    append_utf8(content_, field.at("content").as_character());
    start_ = field.at("start").as_integer(0, 1 << 20);
    stop_ = field.at("stop").as_integer(0, 1 << 20);
  }
  void decode(std::vector<std::string>& tokens, MatchScratch&) const override {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::int64_t i = 0; i < start_ && rest.substr(0, content_.size()) == content_; ++i)
        rest.remove_prefix(content_.size());
      for (std::int64_t i = 0;
           i < stop_ && rest.size() >= content_.size() && rest.substr(rest.size() - content_.size()) == content_; ++i)
        rest.remove_suffix(content_.size());
      token = std::string(rest);
    }
  }

 private:
  std::string content_;
  std::int64_t start_ = 0;
  std::int64_t stop_ = 0;
};

class MetaspaceDecoder final : public TokenDecoder {
 public:
  explicit MetaspaceDecoder(const JsonField& field) : options_(read_metaspace(field)) {}
  void decode(std::vector<std::string>& tokens, MatchScratch&) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const bool drops = i == 0 && options_.scheme != PrependScheme::kNever;
      std::string out;
      for (std::size_t at = 0; at < tokens[i].size();) {
        const std::size_t start = at;
        if (decode_utf8(tokens[i], at) != options_.replacement)
          out.append(tokens[i], start, at - start);
        else if (!drops)
          out += ' ';
      }
      tokens[i] = std::move(out);
    }
  }

 private:
  MetaspaceOptions options_;
};

class ReplaceDecoder final : public TokenDecoder {
 public:
  explicit ReplaceDecoder(const JsonField& field) : pattern_(field.at("pattern")) {
    field.check_keys({"type", "pattern", "content"});
    content_ = field.at("content").as_string();
  }
  void decode(std::vector<std::string>& tokens, MatchScratch& scratch) const override {
    std::vector<Span> spans;
    for (std::string& token : tokens) {
      spans.clear();
      pattern_.for_each(token, scratch, [&](const Span& span) { spans.push_back(span); });
      std::string out;
      for (const Span& span : spans)
        out.append(span.is_match ? content_ : token.substr(span.begin, span.end - span.begin));
      token = std::move(out);
    }
  }

 private:
  Pattern pattern_;
  std::string content_;
};

// The suffix that ends a word becomes a space, except at the end.
class BpeDecoder final : public TokenDecoder {
 public:
  explicit BpeDecoder(const JsonField& field) {
    field.check_keys({"type", "suffix"});
    suffix_ = field.at("suffix").as_string();
    if (suffix_.empty()) field.at("suffix").fail("is empty; expected a string such as \"</w>\".");
  }
  void decode(std::vector<std::string>& tokens, MatchScratch&) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string out;
      std::size_t at = 0;
      for (std::size_t found; (found = tokens[i].find(suffix_, at)) != std::string::npos; at = found + suffix_.size()) {
        out.append(tokens[i], at, found - at);
        if (i + 1 < tokens.size()) out += ' ';
      }
      tokens[i] = out.append(tokens[i], at);
    }
  }

 private:
  std::string suffix_;
};

class DecoderSequence final : public TokenDecoder {
 public:
  explicit DecoderSequence(const JsonField& field) {
    field.check_keys({"type", "decoders"});
    for (const JsonField& element : field.at("decoders").elements()) parts_.push_back(make_token_decoder(element));
  }
  void decode(std::vector<std::string>& tokens, MatchScratch& scratch) const override {
    for (const auto& part : parts_) part->decode(tokens, scratch);
  }

 private:
  std::vector<std::unique_ptr<TokenDecoder>> parts_;
};

}  // namespace

std::unique_ptr<TokenDecoder> make_token_decoder(const JsonField& field) {
  const JsonField type = field.at("type");
  const std::string& name = type.as_string();
  if (name == "BPEDecoder") return std::make_unique<BpeDecoder>(field);
  if (name == "ByteFallback") return std::make_unique<ByteFallback>(field);
  if (name == "ByteLevel") return std::make_unique<ByteLevelDecoder>(field);
  if (name == "Fuse") return std::make_unique<Fuse>(field);
  if (name == "Metaspace") return std::make_unique<MetaspaceDecoder>(field);
  if (name == "Replace") return std::make_unique<ReplaceDecoder>(field);
  if (name == "Sequence") return std::make_unique<DecoderSequence>(field);
  if (name == "Strip") return std::make_unique<StripDecoder>(field);
  type.refuse(name, "BPEDecoder, ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip");
}

}  // namespace adept::data::tok
