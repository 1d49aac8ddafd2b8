// A tokenizer as the data pipeline sees it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "adept/core/function_ref.h"

namespace adept::data {

class Tokenizer;

/// Takes the ids of a document in their order, a part at a time.
using IdSink = FunctionRef<void(std::span<const std::int32_t>)>;

/// Turns a document into token ids. `encode` is called from several threads at once.
struct TextEncoder {
  std::function<void(std::string_view, IdSink)> encode;
  std::int64_t vocab_size = 0;  ///< every id must be in 0 .. vocab_size-1; that of the model, where there is one
  std::string fingerprint{};    ///< changes when the ids may change
  std::function<std::string(std::int32_t)> token_of{};  ///< the token of an id, for messages; may be empty

  /// The same ids, but throws DataError that names the first that is outside the vocabulary.
  void encode_checked(std::string_view text, IdSink sink) const;
};

/// A document gets exactly the ids that its tokenizer gives, special tokens of the post-processor included.
/// `vocab_size` is that of the model; without one, it is what the tokenizer's ids need.
TextEncoder make_text_encoder(const Tokenizer& tokenizer);
TextEncoder make_text_encoder(const Tokenizer& tokenizer, std::int64_t vocab_size);

}  // namespace adept::data
