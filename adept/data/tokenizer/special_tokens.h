// Finds the ids that end, begin or pad a text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "adept/data/tokenizer/tokenizer.h"

namespace adept::data {

/// The id for `role`: "eos", "bos" or "pad". The first of these files in `model_dir` with the key decides; null means
/// none:
///   1. the files of the tokenizer (tokenizer_settings.h)   `eos_token`: "</s>" or {"content": "</s>", ...}
///   2. generation_config.json                              `eos_token_id`: 2, or a list, of which the first counts
///   3. config.json                                         the same
/// transformers uses the tokenizer's token (1), then the model's (2, 3).
///
/// Throws DataError if the value has another type, or the tokenizer has no such token or id. Request only tokens that
/// are used: many models name a pad or BOS token that they lack, and transformers loads them.
std::optional<std::int32_t> load_special_token(const std::filesystem::path& model_dir, const Tokenizer& tokenizer,
                                               std::string_view role);

/// All ids that end a text of the model: eos_token_id of generation_config.json and of config.json, numbers or lists.
/// Chat models have several, such as the end of a turn and that of a text. What is not an id is left out.
std::vector<std::int32_t> find_end_tokens(const std::filesystem::path& model_dir);

/// The id of EOS; nothing if the model names none, or one that it lacks.
std::optional<std::int32_t> find_eos(const std::filesystem::path& model_dir, const Tokenizer& tokenizer);

}  // namespace adept::data
