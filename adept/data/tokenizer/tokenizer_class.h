// Classes of transformers 5 that build their own normalizer and pre-tokenizer instead of those in tokenizer.json:
// models/{llama,gpt2,qwen2}/tokenization_*.py.
#pragma once

#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/tokenizer_settings.h"

namespace adept::data::tok {

/// Why the class named in tokenizer_config.json may produce other ids than tokenizer.json (`root`), which adept
/// follows; empty if the two match.
std::string class_mismatch(const JsonField& root, const TokenizerSettings& settings);

}  // namespace adept::data::tok
