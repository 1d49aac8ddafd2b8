// Text to token ids and back, from a Hugging Face `tokenizer.json`, with the ids of `tokenizers` 0.23, and of a model
// directory with those of transformers 5 (see tokenizer_settings.h for the files beside it).
//
// Supported: models BPE (byte-level and SentencePiece-like); what else a file may hold is listed in normalizer.h,
// pre_tokenizer.h, post_processor.h, token_decoder.h and added_tokens.h, and anything beyond is refused by name.
// `truncation` and `padding` are ignored: transformers switches both off in every call too, and text is never cut here.
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

namespace adept::data {

/// Immutable; cheap to copy; all members can be called from several threads at once.
class Tokenizer {
 public:
  /// Reads a tokenizer.json. Throws DataError that names the file, the path in it, what was found and what is known.
  static Tokenizer from_file(const std::filesystem::path& path);
  /// Reads `tokenizer.json` of a model directory and what the files beside it say about tokens.
  static Tokenizer from_model_dir(const std::filesystem::path& dir);

  /// Ids of `text`. Each ill-formed UTF-8 sequence counts as U+FFFD, as in Python's errors="replace". With
  /// `add_special_tokens` the post-processor adds what it adds (for many models BOS). Cost O(n log n). Throws DataError
  /// where the tokenizer would take more time or memory than the text may cost, or the unknown token is needed and
  /// missing; InterruptedError after a signal.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens = true) const;
  /// Takes ids in their order, some thousand at a time.
  using IdSink = FunctionRef<void(std::span<const std::int32_t>)>;
  /// The same, for long texts: what is held beside the text is at most two normalized copies of it.
  void encode(std::string_view text, IdSink sink, bool add_special_tokens = true) const;

  /// Text of `ids`, always well-formed UTF-8. Ids that no token has are skipped, as in `tokenizers`; a negative id
  /// throws DataError.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = false) const;

  /// Number of tokens, added ones included. Ids may have gaps: compare max_token_id() with a model's vocabulary.
  std::int64_t vocab_size() const;
  std::int32_t max_token_id() const;
  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  std::optional<std::string> id_to_token(std::int32_t id) const;

  /// Hash of the file's bytes and of the tokens that other files add.
  const std::string& fingerprint() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace adept::data
