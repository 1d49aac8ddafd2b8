// The tokenizer interface of the data pipeline.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/function_ref.h"

namespace adept::data {

class ChatTemplate;
class Tokenizer;

/// Receives the ids of a document in order, in parts.
using IdSink = FunctionRef<void(std::span<const std::int32_t>)>;

/// Turns a document into token ids. Several threads call `encode` and `text_of` concurrently.
struct TextEncoder {
  std::function<void(std::string_view, IdSink)> encode;
  std::int64_t vocab_size = 0;  ///< every id is in 0 .. vocab_size-1; the model's size, if there is a model
  std::string fingerprint{};    ///< changes when the ids may change
  std::function<std::string(std::int32_t)> token_of{};  ///< the token of an id, for messages; may be empty
  std::optional<std::int32_t> eos{};                    ///< ends a document; unset: not known
  std::vector<std::int32_t> end_tokens{};               ///< others that end a text, for ids that come from elsewhere
  /// Of what the ids mean, for ids that come from elsewhere: vocabulary_fingerprint(); may be empty.
  std::function<std::string()> vocabulary{};
  /// The text of ids without special tokens, for ids that come from elsewhere; may be empty.
  std::function<std::string(std::span<const std::int32_t>)> text_of{};
  std::shared_ptr<const ChatTemplate> chat{};  ///< renders the conversations that are encoded; may be null

  /// The same ids; throws DataError for the first one outside the vocabulary.
  void encode_checked(std::string_view text, IdSink sink) const;
};

/// Hash of the tokens of all ids: equal for tokenizers whose ids mean the same, however their files are written.
std::string vocabulary_fingerprint(const Tokenizer& tokenizer);

/// A document gets exactly the ids of its tokenizer, including the post-processor's special tokens. `vocab_size` is
/// that of the model; without a model, the size that the tokenizer's ids require.
TextEncoder make_text_encoder(const Tokenizer& tokenizer);
TextEncoder make_text_encoder(const Tokenizer& tokenizer, std::int64_t vocab_size);
/// The same for conversations. A rendered one contains its special tokens, so no others are added.
TextEncoder make_chat_encoder(const Tokenizer& tokenizer, std::int64_t vocab_size, ChatTemplate chat);

}  // namespace adept::data
