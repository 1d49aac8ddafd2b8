// Limits the cost of tokenizing one text, whatever its tokenizer.json requires.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace adept::data::tok {

/// The limits apply to the whole text, so many small pieces cost no more than one large piece. They are generous for
/// real tokenizers: a text may grow by 64 bytes for each of its own (NFKD of one character gives at most 11).
class TextBudget {
 public:
  TextBudget() : TextBudget(0) {}
  explicit TextBudget(std::size_t text_bytes)
      : growth_(text_bytes * 64 + (std::size_t{1} << 20)), match_steps_(text_bytes * 64 + 20'000'000) {}

  /// Bytes that normalization and pre-tokenization may still add.
  std::size_t growth() const { return growth_; }
  /// Charges a step that converted `before` bytes to `after` bytes. Throws DataError that names the step `where`.
  void charge_growth(std::size_t before, std::size_t after, const std::string& where);
  [[noreturn]] static void fail_growth(const std::string& where);

  /// Remaining counted steps of matching (see regex.h).
  std::uint64_t& match_steps() { return match_steps_; }

 private:
  std::size_t growth_;
  std::uint64_t match_steps_;
};

}  // namespace adept::data::tok
