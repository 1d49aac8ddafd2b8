// Granite (dense): a Llama with multipliers of the embeddings, of the attention scores and of what each branch adds,
// and a divisor of the logits. https://huggingface.co/docs/transformers/model_doc/granite
#include <cmath>
#include <utility>

#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace granite {

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config);
  require_silu(reader);
  read_eos_tokens(reader, config, 2);
  const bool attention_bias = reader.boolean("attention_bias", false);
  const bool mlp_bias = reader.boolean("mlp_bias", false);
  config.embedding_scale.factor = reader.number("embedding_multiplier", 1.0, 0);
  config.logit_divisor = reader.number("logits_scaling", 1.0, 0);
  const double attention_multiplier = reader.number("attention_multiplier", 1.0, 0);
  const double residual_multiplier = reader.number("residual_multiplier", 1.0, 0);
  config.ropes = {read_rope(reader, config)};
  compose(config, [&](std::size_t) {
    Attention body =
        attention(config, {.qkv_bias = attention_bias, .output_bias = attention_bias, .gguf_interleaves = true});
    body.scoring.scale = attention_multiplier;
    Layer layer = pre_norm_layer(config, std::move(body), feed_forward(config, mlp_bias));
    layer.attention.multiplier = layer.feed_forward.multiplier = residual_multiplier;
    return layer;
  });
}

// What llama.cpp takes where a scale is 0 or missing.
void read_gguf(GgufReader& reader, const GgufModel& model, Json& config) {
  config["attention_bias"] = reader.has_attention_bias();
  config["mlp_bias"] = reader.has_mlp_bias();
  config["embedding_multiplier"] = reader.scale("embedding_scale", 1);
  config["residual_multiplier"] = reader.scale("residual_scale", 1);
  config["logits_scaling"] = reader.scale("logit_scale", 1);
  config["attention_multiplier"] = reader.scale("attention.scale", 1 / std::sqrt(static_cast<double>(model.head_dim)));
}

}  // namespace granite

extern const Architecture kGranite;
constexpr Architecture kGranite{.model_type = "granite",
                                .class_name = "GraniteForCausalLM",
                                .read = granite::read,
                                .layer_fields = {},
                                .gguf_name = "granite",
                                .read_gguf = granite::read_gguf};

}  // namespace adept::model
