// Pre-tokenizers of tokenizer.json: ByteLevel, Digits, Metaspace, Sequence, Split, WhitespaceSplit.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "adept/core/function_ref.h"
#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/regex.h"

namespace adept::data::tok {

/// Receives non-empty pieces in the order of the text, and the number of their first bytes that come from the first
/// character of the document (see NormalizedText). A piece is valid during the call.
using PieceSink = FunctionRef<void(std::string_view piece, std::size_t first_bytes)>;

/// Pieces are passed on one by one, without a list.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Splits one piece. Throws like Regex::for_each; DataError if a piece exceeds the budget of `scratch`.
  virtual void split(std::string_view piece, std::size_t first_bytes, MatchScratch& scratch, PieceSink emit) const = 0;
};

/// Throws DataError for a type or key that is not supported.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonField& field);

}  // namespace adept::data::tok
