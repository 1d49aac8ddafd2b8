// Decoders of tokenizer.json: convert tokens back to text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/regex.h"

namespace adept::data::tok {

class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  /// Rewrites the list of tokens; joining the result gives the text.
  virtual void decode(std::vector<std::string>& tokens, MatchScratch& scratch) const = 0;
};

/// BPEDecoder, ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip. Throws DataError for anything else.
std::unique_ptr<TokenDecoder> make_token_decoder(const JsonField& field);

}  // namespace adept::data::tok
