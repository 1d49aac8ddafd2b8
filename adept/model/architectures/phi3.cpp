// Phi-3, Phi-3.5 and Phi-4 (mini): q, k and v in one matrix, gate and up in another, rotary positions of a part of each
// head, and longrope.
// https://huggingface.co/docs/transformers/model_doc/phi3
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace phi3 {

constexpr std::int64_t kOriginalLength = 4096;  // original_max_position_embeddings of the configuration class

Attention fused_attention(const ModelConfig& config, std::int64_t window) {
  Attention body = attention(config, {.window = window});
  const std::int64_t queries = config.num_attention_heads * config.head_dim;
  const std::int64_t keys = config.num_key_value_heads * config.head_dim;
  body.inputs = {{.name = "self_attn.qkv_proj",
                  .gguf_name = "attn_qkv",
                  .rows = queries + 2 * keys,
                  .columns = config.hidden_size,
                  .sections = {queries, keys, keys}}};
  return body;
}

FeedForward fused_feed_forward(const ModelConfig& config) {
  FeedForward body = feed_forward(config);
  const std::int64_t f = config.intermediate_size;
  body.inputs = {{.name = "mlp.gate_up_proj",
                  .gguf_name = "ffn_up",
                  .rows = 2 * f,
                  .columns = config.hidden_size,
                  .sections = {f, f}}};
  return body;
}

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, {.rms_norm_eps = 1e-5});
  require_silu(reader);
  read_eos_tokens(reader, config, 32000);
  for (const char* key : {"full_attn_mod", "interpolate_factor"})  // of Phi-4 mini's own code
    reader.require(key, {1}, "transformers ignores this key; remove it to do the same.");
  const std::int64_t window = reader.integer("sliding_window", 0, 1, kMaxInt32);
  config.ropes = {
      read_rope(reader, config,
                {.rotates_partly = true, .original_length = kOriginalLength, .types = {"default", "longrope", "su"}})};
  compose(config, [&](std::size_t) {
    return pre_norm_layer(config, fused_attention(config, window), fused_feed_forward(config));
  });
}

void read_gguf(GgufReader& reader, const GgufModel& model, Json& config) {
  config["sliding_window"] = model.has_window() ? Json(model.sliding_window) : Json();
  read_gguf_longrope(reader, model, config);
}

}  // namespace phi3

extern const Architecture kPhi3;
constexpr Architecture kPhi3{.model_type = "phi3",
                             .class_name = "Phi3ForCausalLM",
                             .read = phi3::read,
                             .layer_fields = {},
                             .gguf_name = "phi3",
                             .read_gguf = phi3::read_gguf};

}  // namespace adept::model
