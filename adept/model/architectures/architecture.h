// The architectures that this build knows. To add one, write a file like llama.cpp beside it and list it in
// registry.cpp.
#pragma once

#include <span>
#include <string_view>

#include "adept/model/config.h"
#include "adept/model/config_reader.h"

namespace adept::model {

/// How one model_type fills a ModelConfig. Defaults of missing keys are those of transformers' configuration class.
struct Architecture {
  std::string_view model_type;  ///< "llama"
  std::string_view class_name;  ///< "LlamaForCausalLM", as in config.json's "architectures"
  void (*read)(ConfigReader& reader, ModelConfig& config);
};

/// All of them; for messages and tests.
std::span<const Architecture* const> known_architectures();
/// Null if there is none of that name.
const Architecture* find_architecture(std::string_view model_type);

// What the architectures share.

/// hidden_size, intermediate_size, num_hidden_layers, vocab_size, heads, rms_norm_eps, hidden_act and the like. A
/// missing num_key_value_heads means `default_kv_heads` (0, and null: as many as query heads), a missing head_dim
/// `default_head_dim` (0: hidden_size / num_attention_heads).
void read_dimensions(ConfigReader& reader, ModelConfig& config, std::int64_t default_kv_heads = 0,
                     std::int64_t default_head_dim = 0);

/// rope_theta, rope_scaling and rope_parameters: the old and the new spelling.
void read_rope(ConfigReader& reader, ModelConfig& config);

/// eos_token_id, ids of the vocabulary; the default holds where the key is missing, not where it is null.
void read_eos_tokens(ConfigReader& reader, ModelConfig& config, std::optional<std::int64_t> default_eos);

/// Fills config.sliding_window from layer_types where given, else with `window` for layers >= first_window_layer.
/// `why_no_window` explains a "sliding_attention" that has no window to slide.
void read_layer_types(ConfigReader& reader, ModelConfig& config, std::int64_t window, std::int64_t first_window_layer,
                      std::string_view why_no_window);

/// use_sliding_window, sliding_window, max_window_layers and layer_types as in Qwen2 and Qwen3.
void read_qwen_windows(ConfigReader& reader, ModelConfig& config);

/// Largest value of a size in a config.json; products of two stay far inside 64 bits.
inline constexpr std::int64_t kMaxDimension = 1 << 20;
inline constexpr std::int64_t kMaxLayers = 1 << 14;
inline constexpr std::int64_t kMaxInt32 = 2147483647;

}  // namespace adept::model
