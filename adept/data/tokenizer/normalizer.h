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

/// Text on its way, and how many of its first bytes stem from the first character of the document: Metaspace with
/// `prepend_scheme: first` asks for that. 0 if the text does not begin where the document does.
struct NormalizedText {
  std::string text;
  std::size_t first_bytes = 0;
};

class Normalizer {
 public:
  /// `where` names it in errors; empty: what it makes longer is charged elsewhere.
  explicit Normalizer(std::string where) : where_(std::move(where)) {}
  virtual ~Normalizer() = default;
  /// Well-formed `text`, of which `first_bytes` are those of a NormalizedText. Beside it at most two normalized copies
  /// are held. Throws DataError where the text outgrows the budget of `scratch`; InterruptedError after a signal.
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

/// Unicode normalization as `tokenizers` does it: with the tables of Unicode 9.0, to which everything newer is inert.
std::string unicode_normalized(std::string_view text, NormalForm form);

}  // namespace adept::data::tok
