#include "adept/data/text_encoder.h"

#include "adept/data/tokenizer/tokenizer.h"

namespace adept::data {

TextEncoder make_text_encoder(const Tokenizer& tokenizer) {
  return make_text_encoder(tokenizer, std::int64_t{tokenizer.max_token_id()} + 1);
}

TextEncoder make_text_encoder(const Tokenizer& tokenizer, std::int64_t vocab_size) {
  return TextEncoder{.encode = [tokenizer](std::string_view text) { return tokenizer.encode(text); },
                     .vocab_size = vocab_size,
                     .fingerprint = tokenizer.fingerprint()};
}

}  // namespace adept::data
