// Qwen3 (dense): RMS norms of each head's queries and keys, a head_dim of its own.
// https://huggingface.co/docs/transformers/model_doc/qwen3
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace qwen3 {

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, {.num_key_value_heads = 32, .head_dim = 128});
  require_silu(reader);
  read_eos_tokens(reader, config, std::nullopt);
  const bool bias = reader.boolean("attention_bias", false);
  const std::vector<std::int64_t> windows = read_qwen_windows(reader, config);
  config.ropes = {read_rope(reader, config)};
  compose(config, [&](std::size_t l) {
    Attention body = attention(config, {.qkv_bias = bias, .output_bias = bias, .window = windows[l]});
    body.q_norm = head_norm(config, "self_attn.q_norm", "attn_q_norm");
    body.k_norm = head_norm(config, "self_attn.k_norm", "attn_k_norm");
    return pre_norm_layer(config, std::move(body), feed_forward(config));
  });
}

void read_gguf(GgufReader& reader, const GgufModel&, Json& config) {
  config["attention_bias"] = reader.has_attention_bias();
  config["use_sliding_window"] = false;
}

constexpr LayerField kFields[] = {{"layer_types", LayerFieldKind::kOnePerLayer},
                                  {"max_window_layers", LayerFieldKind::kThreshold}};

}  // namespace qwen3

extern const Architecture kQwen3;
constexpr Architecture kQwen3{.model_type = "qwen3",
                              .class_name = "Qwen3ForCausalLM",
                              .read = qwen3::read,
                              .layer_fields = qwen3::kFields,
                              .gguf_name = "qwen3",
                              .read_gguf = qwen3::read_gguf};

}  // namespace adept::model
