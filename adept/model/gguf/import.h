// From a GGUF file to a Hugging Face model directory: weights, config.json, tokenizer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "adept/core/dtype.h"
#include "adept/core/progress.h"

namespace adept::model {

struct ImportGgufOptions {
  /// What the weights are written as: F32, BF16 or F16. Dequantised values are fp32, so only F32 keeps them exactly;
  /// the others round to nearest even and halve the file. (A BF16 or F16 file goes through its own type exactly.)
  DType dtype = DType::kF32;
  bool replace_existing = false;  ///< an output directory that is there and not empty is replaced, else an error
};

/// What was imported, for the user.
struct ImportedModel {
  std::string model_type;     ///< "llama"
  std::string pre_tokenizer;  ///< "smollm"; "sentencepiece" for tokenizer.ggml.model "llama"
  std::int64_t num_layers = 0;
  std::int64_t num_parameters = 0;  ///< a tied head is counted once
  std::int64_t vocab_size = 0;      ///< rows of the embedding
};

/// Writes `out_dir` with config.json, generation_config.json, model.safetensors (or shards), tokenizer.json,
/// tokenizer_config.json and special_tokens_map.json, all or nothing.
///
/// Of the architectures that have a gguf_name. The rows of q_proj and k_proj of llama and mistral are put back into the
/// order of Hugging Face's rotary embedding (GGUF interleaves the two halves of each head), and gains that llama.cpp
/// stores as they take effect are stored as the architecture does. One tensor at a time is in memory.
///
/// Throws DataError, with all problems at once: anything that changes the mathematics or the tokens and cannot be
/// expressed is refused by its name; tensors and keys are checked for presence, type, shape and finite values. Throws
/// ConfigError for a dtype other than the three.
ImportedModel import_gguf(const std::filesystem::path& gguf, const std::filesystem::path& out_dir,
                          const ImportGgufOptions& options, Progress& progress);

}  // namespace adept::model
