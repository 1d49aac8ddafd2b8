// A tokenizer as the data pipeline sees it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace adept::data {

class Tokenizer;

/// Turns a document into token ids. `encode` is called from several threads at once.
struct TextEncoder {
  std::function<std::vector<std::int32_t>(std::string_view)> encode;
  std::int64_t vocab_size = 0;  ///< every id must be in 0 .. vocab_size-1; that of the model, where there is one
  std::string fingerprint{};    ///< changes when the ids may change
};

/// A document gets exactly the ids that its tokenizer gives, special tokens of the post-processor included.
/// `vocab_size` is that of the model; without one, it is what the tokenizer's ids need.
TextEncoder make_text_encoder(const Tokenizer& tokenizer);
TextEncoder make_text_encoder(const Tokenizer& tokenizer, std::int64_t vocab_size);

}  // namespace adept::data
