// Pre-tokenizers of tokenizer.json: ByteLevel, Digits, Metaspace, Sequence, Split, WhitespaceSplit.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/regex.h"

namespace adept::data::tok {

/// A stretch of PieceList::text: what the model merges within, or an added token that was found already.
struct Piece {
  std::size_t begin;
  std::size_t end;
  std::size_t first_bytes;  ///< see NormalizedText
  std::int32_t token;       ///< the id of an added token, or -1
};

/// Pieces in the order of the text. No text piece is empty.
struct PieceList {
  std::string text;
  std::vector<Piece> pieces;

  /// Appends a copy of `content` as a text piece, unless it is empty.
  void append(std::string_view content, std::size_t first_bytes);
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void split(PieceList& list, MatchScratch& scratch) const = 0;
};

/// Throws DataError for a type or key that is not supported.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonField& field);

}  // namespace adept::data::tok
