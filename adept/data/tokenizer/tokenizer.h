// Converts text to token ids and back. The ids equal those of `tokenizers` 0.23 for a `tokenizer.json`, and those of
// transformers 5 for a model directory (tokenizer_settings.h describes its other files).
//
// Supported: models BPE (byte-level and SentencePiece-like); normalizer.h, pre_tokenizer.h, post_processor.h,
// token_decoder.h and added_tokens.h list the other supported components; anything else is rejected by name.
// `truncation` and `padding` are ignored: transformers disables both in every call too, and text is never truncated.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/core/json.h"

namespace adept::data {

/// Immutable; cheap to copy; all members can be called from several threads at once.
class Tokenizer {
 public:
  /// Reads a tokenizer.json. Throws DataError with the file, the path in it, the found value and the supported values.
  static Tokenizer from_file(const std::filesystem::path& path);
  /// Reads `tokenizer.json` of a model directory, and the tokens that its other files declare.
  static Tokenizer from_model_dir(const std::filesystem::path& dir);

  /// Ids of `text`. Each ill-formed UTF-8 sequence counts as U+FFFD, as in Python's errors="replace".
  /// `add_special_tokens` applies the post-processor (which adds BOS for many models). Cost O(n log n). Throws
  /// DataError if the tokenizer exceeds the text's budget, or requires a missing unknown token; InterruptedError after
  /// a signal.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens = true) const;
  /// Receives ids in order, a few thousand at a time.
  using IdSink = FunctionRef<void(std::span<const std::int32_t>)>;
  /// The same, for long texts: keeps at most two normalized copies of the text.
  void encode(std::string_view text, IdSink sink, bool add_special_tokens = true) const;

  /// Text of `ids`, always well-formed UTF-8. Ids that no token has are skipped, as in `tokenizers`; a negative id
  /// throws DataError.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = false) const;

  /// Number of tokens, added ones included. Ids may have gaps: compare max_token_id() with a model's vocabulary.
  std::int64_t vocab_size() const;
  std::int32_t max_token_id() const;
  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  std::optional<std::string> id_to_token(std::int32_t id) const;

  /// Every added token by id, whichever file adds it, as `added_tokens` of tokenizer.json lists them.
  Json added_tokens() const;
  /// The id that the next added token gets.
  std::int32_t next_added_id() const;
  /// `text` as the normalizer changes it: what is searched for an added token that is `normalized`.
  std::string normalize(std::string_view text) const;

  /// Hash of the file's bytes and of the tokens that other files add.
  const std::string& fingerprint() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace adept::data
