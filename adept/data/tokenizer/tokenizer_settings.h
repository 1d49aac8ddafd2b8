// Tokens declared outside tokenizer.json: tokenizer_config.json, special_tokens_map.json and added_tokens.json, read as
// transformers 5 reads them into a PreTrainedTokenizerFast (TokenizersBackend):
//
//   - tokenizer_config.json with `added_tokens_decoder`: the tokens there, by index; the other two files do not count.
//   - without it: each key of special_tokens_map.json replaces that of tokenizer_config.json, and the tokens of
//     added_tokens.json and of tokenizer.json's own list count, by index, the latter where both use one.
//   - `bos_token` and its like, `additional_special_tokens` (or `extra_special_tokens`), and any other `..._token`
//     (or, without such, `model_specific_special_tokens`): special tokens, which are added if they are not.
//
// `add_bos_token` and `add_eos_token` have no effect: the post-processor of tokenizer.json decides.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adept/data/tokenizer/added_tokens.h"

namespace adept::data::tok {

/// A token as a file declares it.
struct DeclaredToken {
  std::string content;
  std::string where;     ///< "tokenizer_config.json: eos_token", with the folder
  bool is_text = false;  ///< the text alone, without flags
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool special = false;
  std::optional<bool> normalized{};  ///< if undeclared: true, unless special

  /// Equal for equal declarations, wherever they are.
  std::string identity() const;
};

/// The value of a key such as `eos_token`; null is a value too.
struct NamedToken {
  std::string name;
  std::optional<DeclaredToken> token;
};

struct TokenizerSettings {
  /// Of `added_tokens_decoder`, or of added_tokens.json. By index; the last one in the file counts.
  std::map<std::int64_t, DeclaredToken> added;
  bool has_added_tokens_decoder = false;
  std::vector<NamedToken> named;     ///< bos, eos, unk, sep, pad, cls and mask in this order, then others
  std::vector<DeclaredToken> extra;  ///< additional special tokens
  bool split_special_tokens = false;
  std::string tokenizer_class;             ///< of tokenizer_config.json; empty if absent
  std::optional<bool> add_prefix_space{};  ///< of tokenizer_config.json

  /// The value of a key that has one.
  const NamedToken* find(std::string_view name) const;
};

/// Whether a name is `bos_token`, or that of eos, unk, sep, pad, cls or mask.
bool is_standard_name(std::string_view name);

/// Puts bos, eos, unk, sep, pad, cls and mask first; the others keep their order.
void sort_named(std::vector<NamedToken>& named);

/// Throws DataError with the file, the key and the found value if a value has another form, or if an existing file
/// cannot be read.
TokenizerSettings read_tokenizer_settings(const std::filesystem::path& model_dir);

/// The tokens that transformers adds to a tokenizer with the tokens `listed` in its tokenizer.json and therefore
/// `added`, in this order: tokens whose declarations differ, and unknown special tokens. `padding` is the token of
/// tokenizer.json's padding, used as the pad token if no file names one. Warns about tokens that transformers drops.
std::vector<AddedToken> tokens_to_add(const TokenizerSettings& settings, const std::vector<AddedToken>& listed,
                                      const AddedTokens& added, const std::optional<DeclaredToken>& padding);

}  // namespace adept::data::tok
