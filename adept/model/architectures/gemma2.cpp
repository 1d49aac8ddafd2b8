// Gemma 2: norms before and after each branch, with gains stored as w of 1 + w, GeGLU, scaled embeddings, a sliding
// window in every other layer, and soft caps on attention scores and logits.
// https://huggingface.co/docs/transformers/model_doc/gemma2
#include <cmath>
#include <utility>

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
  read_dimensions(reader, config, {.num_key_value_heads = 4, .head_dim = 256, .tie_word_embeddings = true});
  read_eos_tokens(reader, config, 1);
  for (const char* key : {"hidden_activation", "hidden_act"})
    reader.require(key, {"gelu_pytorch_tanh"}, "Other activations are not implemented.");
  reader.require("use_bidirectional_attention", {false}, "Attention is causal here.");
  const bool bias = reader.boolean("attention_bias", false);
  const nn::Scoring scoring = {.scale = 1 / std::sqrt(reader.number("query_pre_attn_scalar", 256.0, 0)),
                               .soft_cap = read_soft_cap(reader, "attn_logit_softcapping", kScoreCap)};
  config.logit_soft_cap = read_soft_cap(reader, "final_logit_softcapping", kLogitCap);
  reader.ignore("sliding_window_size");  // in files of the 9B and 27B; transformers reads sliding_window
  const std::vector<std::int64_t> windows = read_alternating_windows(reader, config, kPeriod);
  config.ropes = {read_rope(reader, config)};
  config.embedding_scale = {.factor = std::sqrt(static_cast<double>(config.hidden_size)), .is_rounded = true};
  compose(config, [&](std::size_t l) {
    Attention body = attention(config, {.qkv_bias = bias, .output_bias = bias, .window = windows[l]});
    body.scoring = scoring;
    return gemma_layer(config, std::move(body));
  });
  config.norm = one_plus(config.norm);
}

// Every other layer: copies would shift that.
void list_layers(const ModelConfig& config, Json& json) { json["layer_types"] = layer_types_of(config); }

// llama.cpp knows the rest by the architecture's name, and the largest model by its number of layers.
void read_gguf(GgufReader& reader, const GgufModel& model, Json& config) {
  constexpr std::int64_t kLayersOf27B = 46, kWindow = 4096;
  config.erase("hidden_act");
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["attention_bias"] = reader.first_layer_has({"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"});
  config["query_pre_attn_scalar"] =
      model.num_layers == kLayersOf27B ? model.hidden_size / model.num_heads : model.head_dim;
  config["attn_logit_softcapping"] = reader.positive_number("attn_logit_softcapping", kScoreCap);
  config["final_logit_softcapping"] = reader.positive_number("final_logit_softcapping", kLogitCap);
  config["sliding_window"] = model.sliding_window > 0 ? model.sliding_window : kWindow;
  Json types = Json::array();
  for (std::int64_t l = 1; l <= model.num_layers; ++l)
    types.push_back(l % kPeriod == 0 ? "full_attention" : "sliding_attention");
  config["layer_types"] = types;
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
