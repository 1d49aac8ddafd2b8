// OLMo 2: norms after each branch instead of before, and norms over all queries and over all keys at once.
// https://huggingface.co/docs/transformers/model_doc/olmo2
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace olmo2 {

Norm rounded_once(Norm norm) {
  norm.gain = nn::GainConvention::kWide;
  return norm;
}

Norm norm_of_width(const ModelConfig& config, std::string_view name, std::string_view gguf_name, std::int64_t width) {
  Norm norm = rms_norm(config, name, gguf_name);
  norm.width = width;
  return rounded_once(norm);
}

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, {.rms_norm_eps = 1e-5});
  require_silu(reader);
  read_eos_tokens(reader, config, 50279);
  const bool bias = reader.boolean("attention_bias", false);
  config.ropes = {read_rope(reader, config)};
  const std::int64_t queries = config.num_attention_heads * config.head_dim;
  const std::int64_t keys = config.num_key_value_heads * config.head_dim;
  compose(config, [&](std::size_t) {
    Attention body = attention(config, {.qkv_bias = bias, .output_bias = bias});
    body.q_norm = norm_of_width(config, "self_attn.q_norm", "attn_q_norm", queries);
    body.k_norm = norm_of_width(config, "self_attn.k_norm", "attn_k_norm", keys);
    return Layer{
        .attention = {.body = std::move(body),
                      .post_norm = rounded_once(rms_norm(config, "post_attention_layernorm", "post_attention_norm"))},
        .feed_forward = {.body = feed_forward(config),
                         .post_norm = rounded_once(rms_norm(config, "post_feedforward_layernorm", "post_ffw_norm"))}};
  });
  config.norm = rounded_once(config.norm);
}

void read_gguf(GgufReader& reader, const GgufModel&, Json& config) {
  config["attention_bias"] = reader.has_attention_bias();
}

}  // namespace olmo2

extern const Architecture kOlmo2;
constexpr Architecture kOlmo2{.model_type = "olmo2",
                              .class_name = "Olmo2ForCausalLM",
                              .read = olmo2::read,
                              .layer_fields = {},
                              .gguf_name = "olmo2",
                              .read_gguf = olmo2::read_gguf};

}  // namespace adept::model
