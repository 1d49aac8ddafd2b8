// What the tokenization of one text may cost, whatever its tokenizer.json asks for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace adept::data::tok {

/// Limits on a whole text, so that many small pieces cost no more than a large one. Generous for real tokenizers: a
/// text may grow by 64 bytes for each of its own (NFKD of one character gives at most 11).
class TextBudget {
 public:
  TextBudget() : TextBudget(0) {}
  explicit TextBudget(std::size_t text_bytes)
      : growth_(text_bytes * 64 + (std::size_t{1} << 20)), match_steps_(text_bytes * 64 + 20'000'000) {}

  /// Bytes that normalization and pre-tokenization may still add.
  std::size_t growth() const { return growth_; }
  /// Charges a step that made `after` bytes of `before`. Throws DataError that names the step by `where`.
  void charge_growth(std::size_t before, std::size_t after, const std::string& where);
  [[noreturn]] static void fail_growth(const std::string& where);

  /// Steps of matching that may still be taken, of those that are counted (see regex.h).
  std::uint64_t& match_steps() { return match_steps_; }

 private:
  std::size_t growth_;
  std::uint64_t match_steps_;
};

}  // namespace adept::data::tok
