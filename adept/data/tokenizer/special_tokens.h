// Which id ends a text, or begins or pads one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "adept/data/tokenizer/tokenizer.h"

namespace adept::data {

/// The id for `role`: "eos", "bos" or "pad". The first of these in `model_dir` that has the key decides; null there
/// means none:
///   1. the files of the tokenizer (tokenizer_settings.h)   `eos_token`: "</s>" or {"content": "</s>", ...}
///   2. generation_config.json                              `eos_token_id`: 2, or a list, of which the first counts
///   3. config.json                                         the same
/// This is what transformers takes for the tokenizer's own (1), then for the model's (2, 3).
///
/// Throws DataError where the value has another type, or the tokenizer has no such token or id. So ask only for a token
/// that is used: many models name a pad or BOS token that they do not have, and transformers loads them.
std::optional<std::int32_t> load_special_token(const std::filesystem::path& model_dir, const Tokenizer& tokenizer,
                                               std::string_view role);

}  // namespace adept::data
