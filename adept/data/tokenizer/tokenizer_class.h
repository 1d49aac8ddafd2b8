// The classes of transformers 5 that build normalizer and pre-tokenizer of their own instead of those of
// tokenizer.json: models/{llama,gpt2,qwen2}/tokenization_*.py.
#pragma once

#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/tokenizer_settings.h"

namespace adept::data::tok {

/// Why the class that tokenizer_config.json names may give other ids than the `root` of tokenizer.json, which counts
/// here; empty where the two fit.
std::string class_mismatch(const JsonField& root, const TokenizerSettings& settings);

}  // namespace adept::data::tok
