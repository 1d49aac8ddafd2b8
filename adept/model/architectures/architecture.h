// The supported architectures. To add one, write a file like llama.cpp in this folder and list it in registry.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "adept/model/config.h"
#include "adept/model/config_reader.h"
#include "adept/model/gguf/config.h"
#include "adept/model/layer.h"

namespace adept::model {

/// What identity copies mean for a field of config.json that speaks of layers.
enum class LayerFieldKind {
  kOnePerLayer,  ///< a list with an entry per layer: a copy gets its source's
  kThreshold,    ///< "layers from here on": moves past the copies of earlier layers
};
struct LayerField {
  std::string_view key;
  LayerFieldKind kind;
};

/// All that is to be known of one model_type.
struct Architecture {
  std::string_view model_type;  ///< "llama"
  std::string_view class_name;  ///< "LlamaForCausalLM", as in config.json's "architectures"

  /// Reads the keys that are the architecture's own and composes the layers. Defaults of missing keys are those of
  /// transformers' configuration class.
  void (*read)(ConfigReader& reader, ModelConfig& config);

  /// The fields that speak of layers.
  std::span<const LayerField> layer_fields;
  /// Writes what follows from rules over layer indices into lists, for a model that gets copies; null: no such rules.
  void (*list_layers)(const ModelConfig& config, Json& json) = nullptr;

  /// general.architecture in GGUF files; empty: not imported.
  std::string_view gguf_name{};
  /// Adds to config.json, which has what all architectures share, what is the architecture's own.
  void (*read_gguf)(GgufReader& reader, const GgufModel& model, Json& config) = nullptr;
};

/// All of them; for messages and tests.
std::span<const Architecture* const> known_architectures();
/// Null if there is none of that name.
const Architecture* find_architecture(std::string_view model_type);

// Reading, as architectures share it.

/// What missing keys mean.
struct Defaults {
  std::int64_t num_key_value_heads = 0;  ///< 0: as many as query heads, as null always does
  std::int64_t head_dim = 0;             ///< 0: hidden_size / num_attention_heads
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
};

/// hidden_size, intermediate_size, num_hidden_layers, vocab_size, heads, rms_norm_eps and the like.
void read_dimensions(ConfigReader& reader, ModelConfig& config, const Defaults& defaults = {});

/// hidden_act must be that of feed_forward().
void require_silu(ConfigReader& reader);

/// What differs between architectures about rotary positions.
struct RopeOptions {
  double theta = 10000;              ///< where rope_theta is missing
  bool rotates_partly = false;       ///< whether partial_rotary_factor may be less than 1
  std::int64_t original_length = 0;  ///< where original_max_position_embeddings is missing; 0: max_position_embeddings
  std::vector<std::string_view> types = {"default", "linear", "llama3"};  ///< values of rope_type
};
/// rope_theta, rope_scaling and rope_parameters: the old and the new spelling.
nn::RopeParameters read_rope(ConfigReader& reader, const ModelConfig& config, const RopeOptions& options = {});
/// The keys inside such a dictionary, into `rope`; `reader` is of the object around it.
void read_rope_dictionary(ConfigReader& reader, ConfigReader& dictionary, const ModelConfig& config,
                          nn::RopeParameters& rope, const RopeOptions& options = {});

/// eos_token_id, ids of the vocabulary; the default holds where the key is missing, not where it is null.
void read_eos_tokens(ConfigReader& reader, ModelConfig& config, std::optional<std::int64_t> default_eos);

/// The window of each layer, 0 = none: from layer_types where given, else `window` for layers >= first_window_layer.
/// `why_no_window` explains a "sliding_attention" that has no window to slide.
std::vector<std::int64_t> read_layer_types(ConfigReader& reader, const ModelConfig& config, std::int64_t window,
                                           std::int64_t first_window_layer, std::string_view why_no_window);

/// The window of each layer: from layer_types where given, else every `period`-th layer sees all tokens and the others
/// `sliding_window`, 4096 where that is missing.
std::vector<std::int64_t> read_alternating_windows(ConfigReader& reader, const ModelConfig& config,
                                                   std::int64_t period);
/// The windows of `config` as layer_types.
Json layer_types_of(const ModelConfig& config);

/// use_sliding_window, sliding_window, max_window_layers and layer_types as in Qwen2 and Qwen3.
std::vector<std::int64_t> read_qwen_windows(ConfigReader& reader, const ModelConfig& config);

// Parts, as most architectures have them.

/// Over hidden_size.
Norm rms_norm(const ModelConfig& config, std::string_view name, std::string_view gguf_name);
/// Over head_dim.
Norm head_norm(const ModelConfig& config, std::string_view name, std::string_view gguf_name);

struct AttentionOptions {
  bool qkv_bias = false;          ///< biases of q_proj, k_proj and v_proj
  bool output_bias = false;       ///< bias of o_proj
  std::int64_t window = 0;        ///< tokens; 0: all
  bool gguf_interleaves = false;  ///< llama.cpp's converter interleaves the two halves of each head of q and k
};
/// self_attn.q_proj, k_proj, v_proj and o_proj.
Attention attention(const ModelConfig& config, const AttentionOptions& options);

/// mlp.gate_proj, up_proj and down_proj, with SiLU.
FeedForward feed_forward(const ModelConfig& config, bool bias = false);

/// input_layernorm and post_attention_layernorm in front of the two.
Layer pre_norm_layer(const ModelConfig& config, Attention attention, FeedForward feed_forward);

/// The gain of `norm` is stored as w of 1 + w.
Norm one_plus(Norm norm);

/// Fills the config's layers and final norm.
void compose(ModelConfig& config, const std::function<Layer(std::size_t l)>& layer);

// What Gemma 2 and 3 share.

/// Reads all keys but those of windows, rotary positions and soft caps. Returns a layer's attention without these.
Attention read_gemma(ConfigReader& reader, ModelConfig& config);

/// compose() with norms before and after both branches, with gains of 1 + w, and GeGLU (tanh).
void compose_gemma(ModelConfig& config, const std::function<Attention(std::size_t l)>& attention);

/// What llama.cpp derives from the architecture's name, and what its largest model is recognized by.
struct GemmaGguf {
  std::int64_t layers_of_27b = 0;
  std::int64_t period = 0;  ///< every period-th layer has no window
};
/// Adds the activation, biases, scale of attention scores and layer_types to config.json.
void read_gguf_gemma(GgufReader& reader, const GgufModel& model, Json& config, const GemmaGguf& gemma);

/// Largest value of a size in a config.json; products of two stay far inside 64 bits.
inline constexpr std::int64_t kMaxDimension = 1 << 20;
inline constexpr std::int64_t kMaxLayers = 1 << 14;
inline constexpr std::int64_t kMaxInt32 = 2147483647;

/// A list of layer_types and nothing else.
inline constexpr LayerField kLayerTypes[] = {{"layer_types", LayerFieldKind::kOnePerLayer}};

}  // namespace adept::model
