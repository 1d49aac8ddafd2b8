#include "adept/data/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include "adept/core/log.h"
#include "adept/data/tokenizer/unicode.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

// Bounds the work of the search, which is the length of the text times this at worst.
constexpr std::size_t kMaxContent = 4096;

AddedToken read_token(const JsonField& field, const Normalizer* normalizer) {
  field.check_keys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token;
  token.content = field.at("content").as_string();
  token.single_word = field.at("single_word").as_bool();
  token.lstrip = field.at("lstrip").as_bool();
  token.rstrip = field.at("rstrip").as_bool();
  token.normalized = field.at("normalized").as_bool();
  token.special = field.at("special").as_bool();
  token.pattern = token.content;
  if (token.normalized && normalizer != nullptr) {
    MatchScratch scratch;
    NormalizedText text{token.content, 0};
    normalizer->normalize(text, scratch);
    token.pattern = std::move(text.text);
  }
  if (token.pattern.size() > kMaxContent)
    field.at("content").fail(fmt::format("is longer than {} bytes; shorten it.", kMaxContent));
  if (token.pattern.empty() && !token.content.empty())
    field.at("content").fail("is empty after normalization and could never be found; remove the token.");
  return token;
}

bool ends_in_word(std::string_view text, std::size_t end) { return end > 0 && is_word(decode_utf8_before(text, end)); }

bool starts_with_word(std::string_view text, std::size_t begin) {
  return begin < text.size() && is_word(decode_utf8(text, begin));
}

std::size_t before_blanks(std::string_view text, std::size_t end) {
  while (end > 0) {
    std::size_t start = end;
    if (!is_white_space(decode_utf8_before(text, start))) break;
    end = start;
  }
  return end;
}

std::size_t behind_blanks(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    std::size_t next = begin;
    if (!is_white_space(decode_utf8(text, next))) break;
    begin = next;
  }
  return begin;
}

}  // namespace

void StringMatcher::add(std::string_view text, std::int32_t value) {
  std::uint32_t node = 0;
  for (const char byte : text) {
    const std::uint64_t key = static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
    const auto [place, is_new] = children_.emplace(key, static_cast<std::uint32_t>(nodes_.size()));
    if (is_new) nodes_.push_back(-1);
    node = place->second;
  }
  nodes_[node] = value;
  if (!text.empty()) first_bytes_[static_cast<unsigned char>(text[0])] = true;
}

bool StringMatcher::find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end,
                         std::int32_t& value) const {
  for (std::size_t i = from; i < text.size(); ++i) {
    if (!first_bytes_[static_cast<unsigned char>(text[i])]) continue;
    bool found = false;
    std::uint32_t node = 0;
    for (std::size_t j = i; j < text.size(); ++j) {
      const auto child = children_.find(static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(text[j]));
      if (child == children_.end()) break;
      node = child->second;
      if (nodes_[node] < 0) continue;
      found = true;
      end = j + 1;
      value = nodes_[node];
    }
    if (found) {
      begin = i;
      return true;
    }
  }
  return false;
}

AddedTokens::AddedTokens(const JsonField& list, const BpeModel& model, const Normalizer* normalizer) {
  auto next_id = static_cast<std::int32_t>(model.size());
  std::size_t num_mismatched = 0;
  std::string example;
  for (const JsonField& field : list.elements()) {
    AddedToken token = read_token(field, normalizer);
    const auto declared = field.at("id").as_integer(0, kMaxTokenId);
    if (token.content.empty()) continue;
    auto id = id_of(token.content);
    if (!id) id = model.id_of(token.content);
    if (!id) {
      id = next_id++;
      ++num_new_;
    }
    if (*id != declared && num_mismatched++ == 0)
      example = fmt::format("{} {} has the id {} there and is given {}", field.where(), io::quote(token.content),
                            declared, *id);
    if (token.special) special_.insert(token.content);
    ids_.insert_or_assign(token.content, *id);
    tokens_.insert_or_assign(*id, std::move(token));
  }
  if (num_mismatched > 0)
    spdlog::warn("{}; {} added tokens are numbered otherwise than the file says, as `tokenizers` does.", example,
                 num_mismatched);
  std::unordered_map<std::string, std::int32_t> seen[2];
  for (const auto& [id, token] : tokens_) {
    const auto [other, is_new] = seen[token.normalized ? 1 : 0].emplace(token.pattern, id);
    if (!is_new)
      list.fail(fmt::format("has {} and {}, which are the same text after normalization; remove one.",
                            io::quote(tokens_.at(other->second).content), io::quote(token.content)));
    (token.normalized ? normalized_matcher_ : raw_matcher_).add(token.pattern, id);
  }
}

void AddedTokens::find_all(std::string_view text, bool normalized, std::vector<AddedSpan>& spans) const {
  const StringMatcher& matcher = normalized ? normalized_matcher_ : raw_matcher_;
  std::size_t covered = 0;
  std::size_t begin = 0, end = 0;
  std::int32_t id = -1;
  for (std::size_t from = 0; matcher.find(text, from, begin, end, id);) {
    from = end;
    const AddedToken& token = tokens_.at(id);
    if (token.single_word && (ends_in_word(text, begin) || starts_with_word(text, end))) continue;
    if (token.lstrip) begin = std::max(before_blanks(text, begin), covered);
    if (token.rstrip) end = behind_blanks(text, end);
    if (covered < begin) spans.push_back({covered, begin, -1});
    spans.push_back({begin, end, id});
    covered = end;
  }
  if (covered != text.size()) spans.push_back({covered, text.size(), -1});
}

const AddedToken* AddedTokens::token_of(std::int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second;
}

std::optional<std::int32_t> AddedTokens::id_of(std::string_view content) const {
  const auto found = ids_.find(content);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace adept::data::tok
