// Mistral: Llama with one sliding window for all layers.
// https://huggingface.co/docs/transformers/model_doc/mistral
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace mistral {

std::int64_t read_window(ConfigReader& reader, const ModelConfig& config) {
  // Missing means 4096, null means no window.
  std::int64_t window = 0;
  if (reader.has("sliding_window") || !reader.present("sliding_window")) {
    window = reader.integer("sliding_window", 4096, 1, kMaxInt32);
  } else {
    reader.ignore("sliding_window");
  }
  // transformers applies the window of a Mistral to every layer, whatever layer_types says.
  for (const std::int64_t layer_window : read_layer_types(reader, config, window, 0, "sliding_window is null")) {
    if (layer_window == window) continue;
    reader.problem("layer_types",
                   "mixes full and sliding attention, which transformers ignores for model_type mistral. "
                   "Remove it, or use the model_type that the weights were made for.");
    break;
  }
  return window;
}

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, {.num_key_value_heads = 8});
  require_silu(reader);
  read_eos_tokens(reader, config, 2);
  const std::int64_t window = read_window(reader, config);
  config.ropes = {read_rope(reader, config)};
  compose(config, [&](std::size_t) {
    return pre_norm_layer(config, attention(config, {.window = window, .gguf_interleaves = true}),
                          feed_forward(config));
  });
}

void read_gguf(GgufReader& reader, const GgufModel& model, Json& config) {
  config["sliding_window"] = model.has_window() ? Json(model.sliding_window) : Json();
  reader.understand("tensor_data_layout", "Meta AI original pth");
}

}  // namespace mistral

extern const Architecture kMistral;
constexpr Architecture kMistral{.model_type = "mistral",
                                .class_name = "MistralForCausalLM",
                                .read = mistral::read,
                                .layer_fields = kLayerTypes,
                                .gguf_name = "mistral",
                                .read_gguf = mistral::read_gguf};

}  // namespace adept::model
