// Added tokens: strings that are extracted from the text before any other step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/core/json.h"
#include "adept/data/tokenizer/bpe.h"
#include "adept/data/tokenizer/normalizer.h"
#include "adept/data/tokenizer/string_matcher.h"

namespace adept::data::tok {

struct AddedToken {
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
  std::int64_t declared_id = -1;  ///< the id in the file, if any
  std::string where{};            ///< location of its declaration in another file; empty for tokenizer.json

  bool is_same(const AddedToken& other) const {
    return content == other.content && single_word == other.single_word && lstrip == other.lstrip &&
           rstrip == other.rstrip && normalized == other.normalized && special == other.special;
  }
};

/// As `added_tokens` of tokenizer.json lists it.
Json to_json(const AddedToken& token, std::int64_t id);

/// Limit of the content of an added token, as it is and after normalization.
inline constexpr std::size_t kMaxAddedTokenBytes = 4096;

/// A stretch between added tokens (token -1), or an added token.
struct AddedSpan {
  std::size_t begin;
  std::size_t end;
  std::int32_t token;
};

class AddedTokens {
 public:
  /// Reads `added_tokens` of tokenizer.json.
  static std::vector<AddedToken> read(const JsonField& list);

  /// Adds tokens in order, in one call, as `tokenizers` does: an existing token gets the new flags, a token of the
  /// vocabulary keeps its id, and any other gets the next free id. Warns about ids that differ from the declared ones.
  /// `list` names the tokens of tokenizer.json. Throws DataError for a token that can never match or is too long.
  void add(const std::vector<AddedToken>& tokens, const BpeModel& model, const Normalizer* normalizer,
           const std::string& list);
  /// Call after the last add(). Throws DataError for indistinguishable tokens.
  void prepare(const std::string& list);

  /// Extracts the tokens that are (`normalized`) or are not searched in normalized text, without special ones if
  /// `skips_special`. Emits spans in order that cover `text`.
  void find_all(std::string_view text, bool normalized, bool skips_special,
                FunctionRef<void(const AddedSpan&)> emit) const;

  const AddedToken* token_of(std::int32_t id) const;
  /// The text for decoding: normalized if the token was added as normalized. nullptr for an unknown id.
  const std::string* text_of(std::int32_t id) const;
  std::optional<std::int32_t> id_of(std::string_view content) const;
  bool is_special(std::string_view content) const { return special_.contains(std::string(content)); }
  const std::map<std::int32_t, AddedToken>& tokens() const { return tokens_; }
  /// Number of added tokens that the model's vocabulary does not have.
  std::size_t num_new() const { return num_new_; }
  /// The id of the next token that is added.
  std::int32_t next_id(const BpeModel& model) const;
  std::int32_t max_id() const { return tokens_.empty() ? -1 : tokens_.rbegin()->first; }

 private:
  std::map<std::int32_t, AddedToken> tokens_;
  TokenIds ids_;
  std::unordered_map<std::int32_t, std::string> normalized_;  // contents that a normalizer changes
  std::unordered_set<std::string> special_;
  StringMatcher raw_matcher_;
  StringMatcher normalized_matcher_;
  std::size_t num_new_ = 0;
};

}  // namespace adept::data::tok
