// Gemma 2: norms before and after each branch, with gains stored as w of 1 + w, GeGLU, scaled embeddings, a sliding
// window in every other layer, and soft caps on attention scores and logits.
// https://huggingface.co/docs/transformers/model_doc/gemma2
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace gemma2 {

constexpr double kScoreCap = 50, kLogitCap = 30;
constexpr std::int64_t kPeriod = 2;

// Null, other than a missing key, means none.
double read_soft_cap(ConfigReader& reader, std::string_view key, double missing) {
  const bool is_null = reader.present(key) && !reader.has(key);
  const double soft_cap = reader.number(key, missing, 0);
  return is_null ? 0 : soft_cap;
}

void read(ConfigReader& reader, ModelConfig& config) {
  Attention common = read_gemma(reader, config);
  common.scoring.soft_cap = read_soft_cap(reader, "attn_logit_softcapping", kScoreCap);
  config.logit_soft_cap = read_soft_cap(reader, "final_logit_softcapping", kLogitCap);
  reader.ignore("sliding_window_size");  // in files of the 9B and 27B; transformers reads sliding_window
  const std::vector<std::int64_t> windows = read_alternating_windows(reader, config, kPeriod);
  config.ropes = {read_rope(reader, config)};
  compose_gemma(config, [&](std::size_t l) {
    Attention body = common;
    body.window = windows[l];
    return body;
  });
}

// Every other layer: copies would shift that.
void list_layers(const ModelConfig& config, Json& json) { json["layer_types"] = layer_types_of(config); }

void read_gguf(GgufReader& reader, const GgufModel& model, Json& config) {
  constexpr std::int64_t kLayersOf27B = 46, kWindow = 4096;
  read_gguf_gemma(reader, model, config, {.layers_of_27b = kLayersOf27B, .period = kPeriod});
  config["attn_logit_softcapping"] = reader.positive_number("attn_logit_softcapping", kScoreCap);
  config["final_logit_softcapping"] = reader.positive_number("final_logit_softcapping", kLogitCap);
  config["sliding_window"] = model.sliding_window > 0 ? model.sliding_window : kWindow;
}

}  // namespace gemma2

extern const Architecture kGemma2;
constexpr Architecture kGemma2{.model_type = "gemma2",
                               .class_name = "Gemma2ForCausalLM",
                               .read = gemma2::read,
                               .layer_fields = kLayerTypes,
                               .list_layers = gemma2::list_layers,
                               .gguf_name = "gemma2",
                               .read_gguf = gemma2::read_gguf};

}  // namespace adept::model
