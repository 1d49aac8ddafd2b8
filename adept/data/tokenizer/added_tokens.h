// Added tokens: strings that are cut out of the text before anything else happens to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "adept/data/tokenizer/bpe.h"
#include "adept/data/tokenizer/normalizer.h"

namespace adept::data::tok {

struct AddedToken {
  std::string content;
  std::string pattern;  ///< what is searched for and what is decoded: the normalized content if `normalized`
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
};

/// Leftmost-longest search for a set of strings.
class StringMatcher {
 public:
  void add(std::string_view text, std::int32_t value);
  bool empty() const { return nodes_.size() == 1; }
  /// The first match at or behind `from`; nothing if there is none. `begin`, `end`, `value` are set.
  bool find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end, std::int32_t& value) const;

 private:
  std::unordered_map<std::uint64_t, std::uint32_t> children_;  // (node << 8 | byte) -> node
  std::vector<std::int32_t> nodes_ = {-1};                     // value of each node, or -1
  bool first_bytes_[256] = {};
};

/// Stretches between added tokens (token -1) and added tokens, in order.
struct AddedSpan {
  std::size_t begin;
  std::size_t end;
  std::int32_t token;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  /// Reads `added_tokens`. As in `tokenizers`, a token that the vocabulary has keeps that id whatever the file says,
  /// and any other gets the next free one; a file whose ids disagree is reported once as a warning.
  AddedTokens(const JsonField& list, const BpeModel& model, const Normalizer* normalizer);

  /// Cuts the tokens that are (`normalized`) or are not searched for in normalized text. Appends spans that cover
  /// `text`.
  void find_all(std::string_view text, bool normalized, std::vector<AddedSpan>& spans) const;

  const AddedToken* token_of(std::int32_t id) const;
  std::optional<std::int32_t> id_of(std::string_view content) const;
  bool is_special(std::string_view content) const { return special_.contains(std::string(content)); }
  /// Number of added tokens that the model's vocabulary does not have.
  std::size_t num_new() const { return num_new_; }
  std::int32_t max_id() const { return tokens_.empty() ? -1 : tokens_.rbegin()->first; }

 private:
  std::map<std::int32_t, AddedToken> tokens_;
  TokenIds ids_;
  std::unordered_set<std::string> special_;
  StringMatcher raw_matcher_;
  StringMatcher normalized_matcher_;
  std::size_t num_new_ = 0;
};

}  // namespace adept::data::tok
