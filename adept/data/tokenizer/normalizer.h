// Normalizers of tokenizer.json: NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace, Prepend, ByteLevel, Sequence.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/regex.h"

namespace adept::data::tok {

/// Text during normalization, and the number of its first bytes that come from the first character of the document, as
/// Metaspace with `prepend_scheme: first` requires; 0 if the text is not at the start of the document.
struct NormalizedText {
  std::string text;
  std::size_t first_bytes = 0;
};

class Normalizer {
 public:
  /// `where` names it in errors; empty: its growth is charged elsewhere.
  explicit Normalizer(std::string where) : where_(std::move(where)) {}
  virtual ~Normalizer() = default;
  /// Well-formed `text`, of which `first_bytes` are those of a NormalizedText. Keeps at most two normalized copies.
  /// Throws DataError if the text exceeds the budget of `scratch`; InterruptedError after a signal.
  NormalizedText normalize(std::string_view text, std::size_t first_bytes, MatchScratch& scratch) const;

 protected:
  virtual NormalizedText apply(std::string_view text, std::size_t first_bytes, MatchScratch& scratch) const = 0;
  const std::string& where() const { return where_; }

 private:
  std::string where_;
};

/// Throws DataError for a type or key that is not supported.
std::unique_ptr<Normalizer> make_normalizer(const JsonField& field);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

/// Unicode normalization as in `tokenizers`: with the tables of Unicode 9.0, which leave newer characters unchanged.
std::string unicode_normalized(std::string_view text, NormalForm form);

}  // namespace adept::data::tok
