// The metadata of a GGUF file as a config.json of the Hugging Face layout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/io/gguf.h"
#include "adept/model/config.h"
#include "adept/model/gguf/reader.h"

namespace adept::model {

/// What the metadata say of the model, and the two configuration files that follow.
struct GgufModel {
  std::string model_type;  ///< of config.json: "llama"
  std::int64_t num_layers = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t rotary_dim = 0;  ///< dimensions of a head that rotate
  std::int64_t vocab_size = 0;
  std::int64_t context_length = 0;  ///< tokens
  std::int64_t sliding_window = 0;  ///< tokens; 0: none
  Json config;
  Json generation_config;
  ModelConfig parsed;  ///< `config`, as the decoder reads it

  /// Whether the window hides anything within the context.
  bool has_window() const { return sliding_window > 0 && sliding_window < context_length; }
};

/// Reads and checks everything but the tokenizer's own keys.
///
/// Keys below general.* describe, and are ignored but for architecture, alignment, type and quantization_version. Of
/// those below the architecture's name every one must be understood, or have the value that changes nothing. Throws
/// DataError with all problems.
GgufModel read_gguf_model(const io::GgufFile& file);

/// The rope_scaling entry of config.json (null for none) that divides the rotary frequencies by `factors`, one per pair
/// of dimensions, the tensor that llama.cpp's converter computes from rope_type "llama3". Its parameters are searched
/// among round values and must reproduce every factor within fp32 rounding; otherwise a problem is added.
Json recover_llama3_scaling(const std::vector<float>& factors, double rope_theta, std::vector<std::string>& problems);

/// Adds to config.json what llama.cpp's converter keeps of a Phi-3's rotary positions: how much of a head rotates, the
/// length of the original context, and longrope, whose factors are tensors of their own.
void read_gguf_longrope(GgufReader& reader, const GgufModel& model, Json& config);

/// Throws DataError with `where` and the problems, if there are any.
void throw_gguf_problems(const std::string& where, const std::vector<std::string>& problems);

}  // namespace adept::model
