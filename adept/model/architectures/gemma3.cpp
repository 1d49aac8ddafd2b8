// Gemma 3, the text model: norms before and after each branch, with gains stored as w of 1 + w, norms of each head's
// queries and keys, GeGLU, scaled embeddings, and sliding windows with rotary frequencies of their own.
// https://huggingface.co/docs/transformers/model_doc/gemma3
#include <utility>

#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace gemma3 {

constexpr std::size_t kFull = 0, kSliding = 1;  // in ModelConfig::ropes
constexpr double kFullTheta = 1e6, kSlidingTheta = 1e4;

std::vector<nn::RopeParameters> read_ropes(ConfigReader& reader, const ModelConfig& config) {
  nn::RopeParameters sliding;
  sliding.theta = reader.number("rope_local_base_freq", kSlidingTheta, 0);
  const Json& parameters = reader.take("rope_parameters");
  if (!parameters.is_object() || parameters.contains("rope_type") || parameters.contains("type"))
    return {read_rope(reader, config, {.theta = kFullTheta}), sliding};
  reader.require("rope_scaling", {}, "rope_parameters replaces it; remove one of the two.");
  nn::RopeParameters full;
  full.theta = reader.number("rope_theta", kFullTheta, 0);
  ConfigReader by_type = reader.inside("rope_parameters");
  for (const auto& [key, rope] : {std::pair{"full_attention", &full}, {"sliding_attention", &sliding}}) {
    if (!by_type.has(key)) continue;
    ConfigReader dictionary = by_type.inside(key);
    read_rope_dictionary(rope == &full ? reader : by_type, dictionary, config, *rope);
  }
  by_type.refuse_unknown("This build knows full_attention and sliding_attention.");
  return {full, sliding};
}

std::vector<std::int64_t> read_windows(ConfigReader& reader, const ModelConfig& config) {
  reader.ignore("_sliding_window_pattern");  // transformers writes it and reads layer_types
  return read_alternating_windows(reader, config, reader.integer("sliding_window_pattern", 6, 1, kMaxInt32));
}

void read(ConfigReader& reader, ModelConfig& config) {
  Attention common = read_gemma(reader, config);
  common.q_norm = one_plus(head_norm(config, "self_attn.q_norm", "attn_q_norm"));
  common.k_norm = one_plus(head_norm(config, "self_attn.k_norm", "attn_k_norm"));
  const std::vector<std::int64_t> windows = read_windows(reader, config);
  config.ropes = read_ropes(reader, config);
  compose_gemma(config, [&](std::size_t l) {
    Attention body = common;
    body.window = windows[l];
    body.rope = body.window > 0 ? kSliding : kFull;
    return body;
  });
}

// The pattern counts layers, which copies would shift.
void list_layers(const ModelConfig& config, Json& json) {
  json["layer_types"] = layer_types_of(config);
  for (const char* key : {"sliding_window_pattern", "_sliding_window_pattern"}) json.erase(key);
}

void read_gguf(GgufReader& reader, const GgufModel& model, Json& config) {
  constexpr std::int64_t kLayersOf27B = 62;
  const std::int64_t period = reader.integer("attention.sliding_window_pattern", 6, 1);
  read_gguf_gemma(reader, model, config, {.layers_of_27b = kLayersOf27B, .period = period});
  config["rope_local_base_freq"] = reader.positive_number("rope.freq_base_swa", kSlidingTheta);
  config["sliding_window"] = model.sliding_window;
}

}  // namespace gemma3

extern const Architecture kGemma3;
constexpr Architecture kGemma3{.model_type = "gemma3_text",
                               .class_name = "Gemma3ForCausalLM",
                               .read = gemma3::read,
                               .layer_fields = kLayerTypes,
                               .list_layers = gemma3::list_layers,
                               .gguf_name = "gemma3",
                               .read_gguf = gemma3::read_gguf};

}  // namespace adept::model
