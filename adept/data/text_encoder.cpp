#include "adept/data/text_encoder.h"

#include <utility>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/data/chat_template.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "adept/io/text_quote.h"

namespace adept::data {

std::string vocabulary_fingerprint(const Tokenizer& tokenizer) {
  Hasher hasher;
  for (std::int32_t id = 0; id <= tokenizer.max_token_id(); ++id) {
    const std::string token = tokenizer.id_to_token(id).value_or("");
    hasher.update(fmt::format("{} {}\n", token.size(), token));
  }
  return hasher.digest();
}

TextEncoder make_text_encoder(const Tokenizer& tokenizer) {
  return make_text_encoder(tokenizer, std::int64_t{tokenizer.max_token_id()} + 1);
}

TextEncoder make_text_encoder(const Tokenizer& tokenizer, std::int64_t vocab_size) {
  return TextEncoder{.encode = [tokenizer](std::string_view text, IdSink sink) { tokenizer.encode(text, sink); },
                     .vocab_size = vocab_size,
                     .fingerprint = tokenizer.fingerprint(),
                     .token_of = [tokenizer](std::int32_t id) { return tokenizer.id_to_token(id).value_or(""); },
                     .vocabulary = [tokenizer] { return vocabulary_fingerprint(tokenizer); },
                     .text_of =
                         [tokenizer](std::span<const std::int32_t> ids) {
                           return tokenizer.decode(ids, /*skip_special_tokens=*/true);
                         }};
}

TextEncoder make_chat_encoder(const Tokenizer& tokenizer, std::int64_t vocab_size, ChatTemplate chat) {
  TextEncoder encoder = make_text_encoder(tokenizer, vocab_size);
  encoder.encode = [tokenizer](std::string_view text, IdSink sink) {
    tokenizer.encode(text, sink, /*add_special_tokens=*/false);
  };
  encoder.fingerprint += "+" + chat.fingerprint();
  encoder.chat = std::make_shared<const ChatTemplate>(std::move(chat));
  return encoder;
}

void TextEncoder::encode_checked(std::string_view text, IdSink sink) const {
  encode(text, [&](std::span<const std::int32_t> ids) {
    for (const std::int32_t id : ids)
      if (id < 0 || id >= vocab_size)
        throw DataError("the tokenizer produces the id {}, but the model's vocabulary has {} ids; they do not match.{}",
                        id, vocab_size, token_of ? fmt::format(" The token is {}.", io::quote(token_of(id))) : "");
    sink(ids);
  });
}

}  // namespace adept::data
