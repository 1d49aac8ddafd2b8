#include <fmt/format.h>

#include <cmath>
#include <string>
#include <utility>

#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

void read_heads(ConfigReader& reader, ModelConfig& config, std::int64_t default_kv_heads,
                std::int64_t default_head_dim) {
  config.num_attention_heads = reader.integer("num_attention_heads", std::nullopt, 1, kMaxLayers);
  const bool null_kv_heads = reader.present("num_key_value_heads") && !reader.has("num_key_value_heads");
  const std::int64_t kv_heads = default_kv_heads == 0 || null_kv_heads ? config.num_attention_heads : default_kv_heads;
  config.num_key_value_heads = reader.integer("num_key_value_heads", kv_heads, 1, kMaxLayers);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    reader.problem("num_attention_heads", fmt::format("is {}, not a multiple of num_key_value_heads, {}",
                                                      config.num_attention_heads, config.num_key_value_heads));
  }
  std::int64_t head_dim = default_head_dim;
  if (head_dim == 0 && !reader.has("head_dim")) {
    head_dim = config.hidden_size / config.num_attention_heads;
    if (config.hidden_size % config.num_attention_heads != 0) {
      reader.problem("hidden_size",
                     fmt::format("is {}, not a multiple of num_attention_heads, {}, and there is no head_dim",
                                 config.hidden_size, config.num_attention_heads));
    }
  }
  config.head_dim = reader.integer("head_dim", head_dim, 1, kMaxLayers);
  if (config.head_dim < 2 || config.head_dim % 2 != 0) {
    reader.problem("head_dim", fmt::format("is {}; rotary positions need an even number", config.head_dim));
  }
}

Layer gemma_layer(const ModelConfig& config, Attention attention) {
  const auto norm = [&](std::string_view name, std::string_view gguf_name) {
    return one_plus(rms_norm(config, name, gguf_name));
  };
  FeedForward gated = feed_forward(config);
  gated.activation = nn::Activation::kGeluTanh;
  return {.attention = {.pre_norm = norm("input_layernorm", "attn_norm"),
                        .body = std::move(attention),
                        .post_norm = norm("post_attention_layernorm", "post_attention_norm")},
          .feed_forward = {.pre_norm = norm("pre_feedforward_layernorm", "ffn_norm"),
                           .body = std::move(gated),
                           .post_norm = norm("post_feedforward_layernorm", "post_ffw_norm")}};
}

}  // namespace

void read_dimensions(ConfigReader& reader, ModelConfig& config, const Defaults& defaults) {
  config.num_hidden_layers = reader.integer("num_hidden_layers", std::nullopt, 1, kMaxLayers);
  config.hidden_size = reader.integer("hidden_size", std::nullopt, 1, kMaxDimension);
  config.intermediate_size = reader.integer("intermediate_size", std::nullopt, 1, kMaxDimension);
  config.vocab_size = reader.integer("vocab_size", std::nullopt, 1, kMaxInt32);
  read_heads(reader, config, defaults.num_key_value_heads, defaults.head_dim);
  config.max_position_embeddings = reader.integer("max_position_embeddings", 0, 1, kMaxInt32);
  config.rms_norm_eps = reader.number("rms_norm_eps", defaults.rms_norm_eps, 0);
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings", defaults.tie_word_embeddings);
}

void require_silu(ConfigReader& reader) {
  reader.require("hidden_act", {"silu", "swish"}, "Other activations are not implemented.");
}

void read_eos_tokens(ConfigReader& reader, ModelConfig& config, std::optional<std::int64_t> default_eos) {
  const bool has_vocabulary = config.vocab_size > 1;  // else that is a problem already
  config.eos_token_ids = reader.integers("eos_token_id", 0, has_vocabulary ? config.vocab_size - 1 : kMaxInt32);
  if (!reader.present("eos_token_id") && default_eos) config.eos_token_ids = {*default_eos};
}

std::vector<std::int64_t> read_layer_types(ConfigReader& reader, const ModelConfig& config, std::int64_t window,
                                           std::int64_t first_window_layer, std::string_view why_no_window) {
  const std::int64_t num_layers = config.num_hidden_layers;
  std::vector<std::int64_t> windows(static_cast<std::size_t>(num_layers), 0);
  const Json& types = reader.take("layer_types");
  if (types.is_null()) {
    for (std::int64_t l = first_window_layer; l < num_layers; ++l) windows[static_cast<std::size_t>(l)] = window;
    return windows;
  }
  if (!types.is_array() || types.size() != static_cast<std::size_t>(num_layers)) {
    reader.problem("layer_types", types.is_array()
                                      ? fmt::format("has {} entries; num_hidden_layers is {}", types.size(), num_layers)
                                      : fmt::format("is {}; expected a list of strings", brief(types)));
    return windows;
  }
  for (std::size_t l = 0; l < types.size(); ++l) {
    if (types[l] == "sliding_attention") {
      windows[l] = window;
      if (window > 0) continue;
      reader.problem(fmt::format("layer_types[{}]", l), fmt::format("is \"sliding_attention\", but {}", why_no_window));
    } else if (types[l] != "full_attention" && types[l] != "attention") {
      reader.problem(fmt::format("layer_types[{}]", l),
                     fmt::format("is {}; this build knows full_attention, sliding_attention", brief(types[l])));
    } else {
      continue;
    }
    break;  // one wrong entry says enough
  }
  return windows;
}

std::vector<std::int64_t> read_alternating_windows(ConfigReader& reader, const ModelConfig& config,
                                                   std::int64_t period) {
  const bool null_window = reader.present("sliding_window") && !reader.has("sliding_window");
  const std::int64_t window = reader.integer("sliding_window", null_window ? 0 : 4096, 1, kMaxInt32);
  std::vector<std::int64_t> windows = read_layer_types(reader, config, window, 0, "sliding_window is null");
  if (reader.has("layer_types")) return windows;
  if (window == 0) reader.problem("sliding_window", "is null; expected the tokens that a layer of the pattern sees");
  for (std::size_t l = 0; l < windows.size(); ++l)
    if ((static_cast<std::int64_t>(l) + 1) % period == 0) windows[l] = 0;
  return windows;
}

Json layer_types_of(const ModelConfig& config) {
  Json types = Json::array();
  for (const Layer& layer : config.layers)
    types.push_back(layer.attention.body.window > 0 ? "sliding_attention" : "full_attention");
  return types;
}

std::vector<std::int64_t> read_qwen_windows(ConfigReader& reader, const ModelConfig& config) {
  const bool use_window = reader.boolean("use_sliding_window", false);
  const bool null_window = reader.present("sliding_window") && !reader.has("sliding_window");
  const std::int64_t width = reader.integer("sliding_window", null_window ? 0 : 4096, use_window ? 1 : 0, kMaxInt32);
  const std::int64_t first_window_layer = reader.integer("max_window_layers", 28, 0, kMaxInt32);
  return read_layer_types(reader, config, use_window ? width : 0, first_window_layer,
                          use_window ? "sliding_window is null" : "use_sliding_window is false");
}

Norm rms_norm(const ModelConfig& config, std::string_view name, std::string_view gguf_name) {
  return {.name = name, .gguf_name = gguf_name, .width = config.hidden_size, .eps = config.rms_norm_eps};
}

Norm head_norm(const ModelConfig& config, std::string_view name, std::string_view gguf_name) {
  return {.name = name, .gguf_name = gguf_name, .width = config.head_dim, .eps = config.rms_norm_eps};
}

Attention attention(const ModelConfig& c, const AttentionOptions& options) {
  const std::int64_t queries = c.num_attention_heads * c.head_dim, keys = c.num_key_value_heads * c.head_dim;
  const auto input = [&](std::string_view name, std::string_view gguf_name, std::int64_t rows, std::int64_t heads) {
    return Projection{.name = name,
                      .gguf_name = gguf_name,
                      .rows = rows,
                      .columns = c.hidden_size,
                      .has_bias = options.qkv_bias,
                      .gguf_heads = heads};
  };
  const bool interleaved = options.gguf_interleaves;
  return {.num_heads = c.num_attention_heads,
          .num_kv_heads = c.num_key_value_heads,
          .head_dim = c.head_dim,
          .inputs = {input("self_attn.q_proj", "attn_q", queries, interleaved ? c.num_attention_heads : 0),
                     input("self_attn.k_proj", "attn_k", keys, interleaved ? c.num_key_value_heads : 0),
                     input("self_attn.v_proj", "attn_v", keys, 0)},
          .output = {.name = "self_attn.o_proj",
                     .gguf_name = "attn_output",
                     .rows = c.hidden_size,
                     .columns = queries,
                     .has_bias = options.output_bias},
          .window = options.window};
}

FeedForward feed_forward(const ModelConfig& c, bool bias) {
  const std::int64_t d = c.hidden_size, f = c.intermediate_size;
  return {.num_neurons = f,
          .inputs = {{.name = "mlp.gate_proj", .gguf_name = "ffn_gate", .rows = f, .columns = d, .has_bias = bias},
                     {.name = "mlp.up_proj", .gguf_name = "ffn_up", .rows = f, .columns = d, .has_bias = bias}},
          .output = {.name = "mlp.down_proj", .gguf_name = "ffn_down", .rows = d, .columns = f, .has_bias = bias}};
}

Norm one_plus(Norm norm) {
  norm.gain = nn::GainConvention::kOnePlus;
  return norm;
}

void compose(ModelConfig& config, const std::function<Layer(std::size_t l)>& layer) {
  config.norm = rms_norm(config, "model.norm", "output_norm");
  for (std::size_t l = 0; l < static_cast<std::size_t>(config.num_hidden_layers); ++l)
    config.layers.push_back(layer(l));
}

Attention read_gemma(ConfigReader& reader, ModelConfig& config) {
  read_dimensions(reader, config, {.num_key_value_heads = 4, .head_dim = 256, .tie_word_embeddings = true});
  read_eos_tokens(reader, config, 1);
  for (const char* key : {"hidden_activation", "hidden_act"})
    reader.require(key, {"gelu_pytorch_tanh"}, "Other activations are not implemented.");
  reader.require("use_bidirectional_attention", {false}, "Attention is causal here.");
  config.embedding_scale = {.factor = std::sqrt(static_cast<double>(config.hidden_size)), .is_rounded = true};
  const bool bias = reader.boolean("attention_bias", false);
  Attention body = attention(config, {.qkv_bias = bias, .output_bias = bias});
  body.scoring.scale = 1 / std::sqrt(reader.number("query_pre_attn_scalar", 256.0, 0));
  return body;
}

void compose_gemma(ModelConfig& config, const std::function<Attention(std::size_t l)>& attention) {
  compose(config, [&](std::size_t l) { return gemma_layer(config, attention(l)); });
  config.norm = one_plus(config.norm);
}

void read_gguf_gemma(GgufReader& reader, const GgufModel& model, Json& config, const GemmaGguf& gemma) {
  config.erase("hidden_act");
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["attention_bias"] = reader.has_attention_bias();
  config["query_pre_attn_scalar"] =
      model.num_layers == gemma.layers_of_27b ? model.hidden_size / model.num_heads : model.head_dim;
  Json types = Json::array();
  for (std::int64_t l = 1; l <= model.num_layers; ++l)
    types.push_back(l % gemma.period == 0 ? "full_attention" : "sliding_attention");
  config["layer_types"] = types;
}

Layer pre_norm_layer(const ModelConfig& config, Attention attention, FeedForward feed_forward) {
  return {.attention = {.pre_norm = rms_norm(config, "input_layernorm", "attn_norm"), .body = std::move(attention)},
          .feed_forward = {.pre_norm = rms_norm(config, "post_attention_layernorm", "ffn_norm"),
                           .body = std::move(feed_forward)}};
}

}  // namespace adept::model
