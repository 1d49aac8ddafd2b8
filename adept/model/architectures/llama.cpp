// Llama 1 to 3, SmolLM and everything that saves itself as LlamaForCausalLM.
// https://huggingface.co/docs/transformers/model_doc/llama
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace llama {

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config);
  require_silu(reader);
  read_eos_tokens(reader, config, 2);
  const bool attention_bias = reader.boolean("attention_bias", false);
  const bool mlp_bias = reader.boolean("mlp_bias", false);
  reader.require("pretraining_tp", {1}, "Sliced projections round differently; set it to 1 to accept the difference.");
  reader.require("rope_interleaved", {false}, "Interleaved rotary positions need permuted q and k weights.");
  read_layer_types(reader, config, 0, 0, "Llama has no sliding window");
  config.ropes = {read_rope(reader, config)};
  compose(config, [&](std::size_t) {
    return pre_norm_layer(
        config,
        attention(config, {.qkv_bias = attention_bias, .output_bias = attention_bias, .gguf_interleaves = true}),
        feed_forward(config, mlp_bias));
  });
}

void read_gguf(GgufReader& reader, const GgufModel&, Json& config) {
  config["attention_bias"] = reader.has_attention_bias();
  config["mlp_bias"] = reader.has_mlp_bias();
  reader.understand("tensor_data_layout", "Meta AI original pth");
}

}  // namespace llama

extern const Architecture kLlama;
constexpr Architecture kLlama{.model_type = "llama",
                              .class_name = "LlamaForCausalLM",
                              .read = llama::read,
                              .layer_fields = kLayerTypes,
                              .gguf_name = "llama",
                              .read_gguf = llama::read_gguf};

}  // namespace adept::model
