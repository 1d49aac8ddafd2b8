// Qwen2 and Qwen2.5: Llama with biases on q, k and v, and optional sliding windows in the upper layers.
// https://huggingface.co/docs/transformers/model_doc/qwen2
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace qwen2 {

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, {.num_key_value_heads = 32});
  require_silu(reader);
  read_eos_tokens(reader, config, std::nullopt);
  reader.require("use_mrope", {false}, "Multimodal rotary positions are not implemented.");
  const std::vector<std::int64_t> windows = read_qwen_windows(reader, config);
  config.ropes = {read_rope(reader, config)};
  compose(config, [&](std::size_t l) {
    return pre_norm_layer(config, attention(config, {.qkv_bias = true, .window = windows[l]}), feed_forward(config));
  });
}

void read_gguf(GgufReader& reader, const GgufModel& model, Json& config) {
  config.erase("head_dim");
  config["use_sliding_window"] = false;
  if (model.head_dim * model.num_heads != model.hidden_size)
    reader.problem("attention.key_length is {}; Qwen 2 has {} / {} only", model.head_dim, model.hidden_size,
                   model.num_heads);
}

constexpr LayerField kFields[] = {{"layer_types", LayerFieldKind::kOnePerLayer},
                                  {"max_window_layers", LayerFieldKind::kThreshold}};

}  // namespace qwen2

extern const Architecture kQwen2;
constexpr Architecture kQwen2{.model_type = "qwen2",
                              .class_name = "Qwen2ForCausalLM",
                              .read = qwen2::read,
                              .layer_fields = qwen2::kFields,
                              .gguf_name = "qwen2",
                              .read_gguf = qwen2::read_gguf};

}  // namespace adept::model
