#include "adept/data/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/signals.h"
#include "adept/data/tokenizer/unicode.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

bool ends_in_word(std::string_view text, std::size_t end) { return end > 0 && is_word(decode_utf8_before(text, end)); }

bool starts_with_word(std::string_view text, std::size_t begin) {
  return begin < text.size() && is_word(decode_utf8(text, begin));
}

std::string place_of(const std::vector<AddedToken>& tokens, std::size_t i, const std::string& list) {
  return tokens[i].where.empty() ? fmt::format("{}[{}].content", list, i) : tokens[i].where;
}

}  // namespace

std::vector<AddedToken> AddedTokens::read(const JsonField& list) {
  std::vector<AddedToken> tokens;
  tokens.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    throw_if_interrupted();
    const JsonField field = list.at(i);
    field.check_keys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    tokens.push_back({.content = field.at("content").as_string(),
                      .single_word = field.at("single_word").as_bool(),
                      .lstrip = field.at("lstrip").as_bool(),
                      .rstrip = field.at("rstrip").as_bool(),
                      .normalized = field.at("normalized").as_bool(),
                      .special = field.at("special").as_bool(),
                      .declared_id = field.at("id").as_integer(0, kMaxTokenId)});
  }
  return tokens;
}

Json to_json(const AddedToken& token, std::int64_t id) {
  return {{"id", id},
          {"content", token.content},
          {"single_word", token.single_word},
          {"lstrip", token.lstrip},
          {"rstrip", token.rstrip},
          {"normalized", token.normalized},
          {"special", token.special}};
}

std::int32_t AddedTokens::next_id(const BpeModel& model) const {
  const auto model_size = static_cast<std::int32_t>(model.size());
  return max_id() >= model_size || model_size == 0 ? max_id() + 1 : model_size;
}

void AddedTokens::add(const std::vector<AddedToken>& tokens, const BpeModel& model, const Normalizer* normalizer,
                      const std::string& list) {
  std::int32_t next = next_id(model);
  std::size_t num_mismatched = 0, bytes = 0;
  std::string example;
  for (const AddedToken& token : tokens) bytes += token.content.size();
  MatchScratch scratch;
  scratch.budget = TextBudget(bytes);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const AddedToken& token = tokens[i];
    if (token.content.empty()) continue;
    if (token.content.size() > kMaxAddedTokenBytes)
      throw DataError("{} is longer than {} bytes; shorten it.", place_of(tokens, i, list), kMaxAddedTokenBytes);
    auto id = id_of(token.content);
    if (!id) id = model.id_of(token.content);
    if (!id) {
      id = next++;
      ++num_new_;
    }
    if (token.normalized && normalizer != nullptr) {
      NormalizedText text = normalizer->normalize(token.content, 0, scratch);
      if (text.text.empty())
        throw DataError("{} is empty after normalization, so it never matches; remove the token.",
                        place_of(tokens, i, list));
      if (text.text.size() > kMaxAddedTokenBytes)
        throw DataError("{} is longer than {} bytes after normalization; shorten it.", place_of(tokens, i, list),
                        kMaxAddedTokenBytes);
      if (text.text != token.content) normalized_.insert_or_assign(*id, std::move(text.text));
    }
    if (token.declared_id >= 0 && *id != token.declared_id && num_mismatched++ == 0)
      example = fmt::format("{} {} has the id {} there but gets {}", place_of(tokens, i, list),
                            io::quote(token.content), token.declared_id, *id);
    if (token.special) special_.insert(token.content);
    ids_.insert_or_assign(token.content, *id);
    tokens_.insert_or_assign(*id, token);
  }
  if (num_mismatched > 0)
    log_common_warning("{}; {} added tokens get other ids than in the file, as in the `tokenizers` library.", example,
                       num_mismatched);
}

void AddedTokens::prepare(const std::string& list) {
  std::unordered_map<std::string_view, std::int32_t> seen[2];
  for (const auto& [id, token] : tokens_) {
    const std::string& pattern = token.normalized ? *text_of(id) : token.content;
    const auto [other, is_new] = seen[token.normalized ? 1 : 0].emplace(pattern, id);
    if (!is_new)
      throw DataError("{} has {} and {}, which are the same text after normalization; remove one.",
                      token.where.empty() ? list : token.where, io::quote(tokens_.at(other->second).content),
                      io::quote(token.content));
    (token.normalized ? normalized_matcher_ : raw_matcher_).add(pattern, id);
  }
  raw_matcher_.prepare();
  normalized_matcher_.prepare();
}

void AddedTokens::find_all(std::string_view text, bool normalized, bool skips_special,
                           FunctionRef<void(const AddedSpan&)> emit) const {
  StringMatcher::Matches matches(normalized ? normalized_matcher_ : raw_matcher_, text);
  std::size_t covered = 0;
  std::size_t blanks_begin = 1, blanks_end = 0;  // a run of spaces that was already scanned
  for (StringMatcher::Match match{}; matches.next(match);) {
    auto [begin, end, id] = match;
    const AddedToken& token = tokens_.at(id);
    if (skips_special && is_special(token.content)) continue;
    if (token.single_word && (ends_in_word(text, begin) || starts_with_word(text, end))) continue;
    if (token.lstrip) begin = std::max(before_blanks(text, begin, std::min(covered, begin)), covered);
    if (token.rstrip) {
      if (end < blanks_begin || end > blanks_end) {
        blanks_begin = end;
        blanks_end = behind_blanks(text, end);
      }
      end = blanks_end;
    }
    if (covered < begin) emit({covered, begin, -1});
    emit({begin, end, id});
    covered = end;
  }
  if (covered != text.size()) emit({covered, text.size(), -1});
}

const AddedToken* AddedTokens::token_of(std::int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second;
}

const std::string* AddedTokens::text_of(std::int32_t id) const {
  const AddedToken* token = token_of(id);
  if (token == nullptr) return nullptr;
  const auto changed = normalized_.find(id);
  return changed == normalized_.end() ? &token->content : &changed->second;
}

std::optional<std::int32_t> AddedTokens::id_of(std::string_view content) const {
  const auto found = ids_.find(content);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace adept::data::tok
