// Mistral: Llama with one sliding window for all layers.
// https://huggingface.co/docs/transformers/model_doc/mistral
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

void read(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, /*default_kv_heads=*/8);
  read_eos_tokens(reader, config, 2);
  // Missing means 4096, null means no window.
  std::int64_t window = 0;
  if (reader.has("sliding_window") || !reader.present("sliding_window")) {
    window = reader.integer("sliding_window", 4096, 1, kMaxInt32);
  } else {
    reader.ignore("sliding_window");
  }
  read_layer_types(reader, config, window, 0, "sliding_window is null");
  // transformers applies the window of a Mistral to every layer, whatever layer_types says.
  for (const std::int64_t layer_window : config.sliding_window) {
    if (layer_window == window) continue;
    reader.problem("layer_types",
                   "mixes full and sliding attention, which transformers ignores for model_type mistral. "
                   "Remove it, or use the model_type that the weights were made for.");
    break;
  }
}

}  // namespace

extern const Architecture kMistral;
constexpr Architecture kMistral{"mistral", "MistralForCausalLM", read};

}  // namespace adept::model
