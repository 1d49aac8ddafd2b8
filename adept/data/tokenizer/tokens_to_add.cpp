#include <unordered_map>
#include <unordered_set>

#include "adept/core/log.h"
#include "adept/data/tokenizer/tokenizer_settings.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

DeclaredToken declared(const AddedToken& token) {
  return {.content = token.content,
          .where = token.where,
          .single_word = token.single_word,
          .lstrip = token.lstrip,
          .rstrip = token.rstrip,
          .special = token.special,
          .normalized = token.normalized};
}

AddedToken resolved(const DeclaredToken& token, bool is_named) {
  AddedToken result{.content = token.content,
                    .single_word = token.single_word,
                    .lstrip = token.lstrip,
                    .rstrip = token.rstrip,
                    .special = token.is_text || token.special || is_named,
                    .where = token.where};
  result.normalized = token.normalized.value_or(!result.special);
  return result;
}

struct Declarations {
  std::map<std::int64_t, DeclaredToken> by_index;
  std::unordered_map<std::string, DeclaredToken> by_content;
};

// The tokens with an index, from all files that apply.
Declarations collect(const TokenizerSettings& settings, const std::vector<AddedToken>& listed) {
  Declarations all;
  all.by_index = settings.added;
  for (const auto& [index, token] : settings.added) all.by_content.insert_or_assign(token.content, token);
  if (settings.has_added_tokens_decoder) return all;
  for (const AddedToken& token : listed) {
    const auto [place, is_new] = all.by_index.try_emplace(token.declared_id);
    if (!is_new && !place->second.where.empty() && place->second.content != token.content)
      log_warning("{}: tokenizer.json has {} with the same id {}; the token is dropped, as in transformers.",
                  place->second.where, io::quote(token.content), token.declared_id);
    place->second = declared(token);
    all.by_content.insert_or_assign(token.content, declared(token));
  }
  return all;
}

// The values of the keys that name a token.
std::vector<NamedToken> named_tokens(const TokenizerSettings& settings, const std::optional<DeclaredToken>& padding) {
  std::vector<NamedToken> named = settings.named;
  if (padding && settings.find("pad_token") == nullptr) named.push_back({"pad_token", padding});
  sort_named(named);
  return named;
}

}  // namespace

std::vector<AddedToken> tokens_to_add(const TokenizerSettings& settings, const std::vector<AddedToken>& listed,
                                      const AddedTokens& added, const std::optional<DeclaredToken>& padding) {
  const Declarations declarations = collect(settings, listed);
  std::unordered_set<std::string> known;  // already added, or to be added by index
  for (const auto& [id, token] : added.tokens()) known.insert(token.content);
  std::vector<std::pair<DeclaredToken, std::int64_t>> tokens;
  std::unordered_set<std::string> identities;
  for (const auto& [index, token] : declarations.by_index) {
    const auto id = added.id_of(token.content);
    const AddedToken* present = id ? added.token_of(*id) : nullptr;
    if (present != nullptr && present->is_same(resolved(token, false))) continue;
    tokens.emplace_back(token, index);
    identities.insert(token.identity());
  }
  for (const auto& [token, index] : tokens) known.insert(token.content);

  std::unordered_set<std::string> names;
  const auto add_special = [&](const DeclaredToken& token) {
    if (!known.contains(token.content) && identities.insert(token.identity()).second) tokens.emplace_back(token, -1);
  };
  for (const NamedToken& named : named_tokens(settings, padding)) {
    if (!named.token) continue;
    names.insert(named.token->content);
    // A token declared with an index has the flags of that declaration.
    const auto found = declarations.by_content.find(named.token->content);
    add_special(found == declarations.by_content.end() ? *named.token : found->second);
  }
  for (const DeclaredToken& token : settings.extra) add_special(token);

  std::vector<AddedToken> result;
  for (const auto& [token, index] : tokens) {
    result.push_back(resolved(token, names.contains(token.content)));
    result.back().declared_id = index;
  }
  return result;
}

}  // namespace adept::data::tok
