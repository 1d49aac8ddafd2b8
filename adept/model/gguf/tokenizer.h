// The tokenizer inside a GGUF file as the files that Hugging Face tokenizers and transformers read.
#pragma once

#include <string>

#include "adept/core/json.h"
#include "adept/io/gguf.h"
#include "adept/model/gguf/config.h"

namespace adept::model {

struct GgufTokenizer {
  std::string pre_tokenizer;   ///< tokenizer.ggml.pre, or "sentencepiece"
  std::string tokenizer_json;  ///< text of tokenizer.json
  Json tokenizer_config;       ///< names of special tokens, chat template
  Json special_tokens_map;
};

/// Builds the tokenizer of tokenizer.ggml.model "gpt2" (byte-level BPE; tokenizer.ggml.pre must be smollm, llama-bpe,
/// qwen2, gpt-2, default, or a name that llama.cpp takes for one of these) or "llama" (SentencePiece BPE, Llama 2's
/// and Gemma's: merges are recovered from the scores). Other models and pre-tokenizers, and keys below tokenizer.ggml.*
/// that are not known, are refused by name.
///
/// Ids are those of the original tokenizer, as far as it is known: for the tokenizers of SmolLM, Llama 3, Qwen2,
/// Command R and GPT-NeoX (mpt, olmo, modern-bert) that includes what GGUF does not say, such as ignored merges and the
/// NFC normalisation of the last three. Under the other names ids are those of llama.cpp, which normalizes nothing. Not
/// in a GGUF file, and so lost: whether an added token strips the blanks beside it.
///
/// Throws DataError with all problems.
GgufTokenizer read_gguf_tokenizer(const io::GgufFile& file, const GgufModel& model);

}  // namespace adept::model
