// Which ids begin, end and pad a text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "adept/data/tokenizer/tokenizer.h"

namespace adept::data {

struct SpecialTokens {
  std::optional<std::int32_t> bos;
  std::optional<std::int32_t> eos;
  std::optional<std::int32_t> pad;
};

/// For each of bos, eos and pad the first of these files in `model_dir` that has the key decides; null there means
/// none:
///   1. tokenizer_config.json     `eos_token`: "</s>" or {"content": "</s>", ...}
///   2. special_tokens_map.json   the same
///   3. generation_config.json    `eos_token_id`: 2, or a list, of which the first counts
///   4. config.json               the same
/// This is what transformers takes for the tokenizer's own (1, 2), then for the model's (3, 4).
/// Throws DataError where a value has another type, or the tokenizer has no such token or id.
SpecialTokens load_special_tokens(const std::filesystem::path& model_dir, const Tokenizer& tokenizer);

/// The same, reading the tokenizer of `model_dir` first.
SpecialTokens load_special_tokens(const std::filesystem::path& model_dir);

}  // namespace adept::data
