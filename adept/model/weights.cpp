#include "adept/model/weights.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <fmt/format.h>

#include <array>
#include <charconv>

#include "adept/core/error.h"

namespace adept::model {
namespace {

/// A tensor of a layer: its name there, its slot, its shape, and whether the architecture has it.
struct LayerEntry {
  std::string_view unit;
  at::Tensor& (*slot)(LayerWeights&);
  std::vector<std::int64_t> (*shape)(const ModelConfig&);
  bool (*present)(const ModelConfig&);
};

bool always(const ModelConfig&) { return true; }
bool has_qkv_bias(const ModelConfig& c) { return c.qkv_bias; }
bool has_o_bias(const ModelConfig& c) { return c.o_bias; }
bool has_mlp_bias(const ModelConfig& c) { return c.mlp_bias; }
bool has_qk_norm(const ModelConfig& c) { return c.qk_norm; }

using Shape = std::vector<std::int64_t>;
Shape model_width(const ModelConfig& c) { return {c.hidden_size}; }
Shape head_width(const ModelConfig& c) { return {c.head_dim}; }
Shape ffn_width(const ModelConfig& c) { return {c.intermediate_size}; }
Shape q_width(const ModelConfig& c) { return {c.num_attention_heads * c.head_dim}; }
Shape kv_width(const ModelConfig& c) { return {c.num_key_value_heads * c.head_dim}; }
Shape q_matrix(const ModelConfig& c) { return {c.num_attention_heads * c.head_dim, c.hidden_size}; }
Shape kv_matrix(const ModelConfig& c) { return {c.num_key_value_heads * c.head_dim, c.hidden_size}; }
Shape o_matrix(const ModelConfig& c) { return {c.hidden_size, c.num_attention_heads * c.head_dim}; }
Shape up_matrix(const ModelConfig& c) { return {c.intermediate_size, c.hidden_size}; }
Shape down_matrix(const ModelConfig& c) { return {c.hidden_size, c.intermediate_size}; }

// The name table. Everything that reads, writes or walks weights goes through it.
constexpr std::array kLayerTable = {
    LayerEntry{"input_layernorm.weight", [](LayerWeights& w) -> at::Tensor& { return w.input_layernorm; }, model_width,
               always},
    LayerEntry{"self_attn.q_proj.weight", [](LayerWeights& w) -> at::Tensor& { return w.q_proj.weight; }, q_matrix,
               always},
    LayerEntry{"self_attn.q_proj.bias", [](LayerWeights& w) -> at::Tensor& { return w.q_proj.bias; }, q_width,
               has_qkv_bias},
    LayerEntry{"self_attn.k_proj.weight", [](LayerWeights& w) -> at::Tensor& { return w.k_proj.weight; }, kv_matrix,
               always},
    LayerEntry{"self_attn.k_proj.bias", [](LayerWeights& w) -> at::Tensor& { return w.k_proj.bias; }, kv_width,
               has_qkv_bias},
    LayerEntry{"self_attn.v_proj.weight", [](LayerWeights& w) -> at::Tensor& { return w.v_proj.weight; }, kv_matrix,
               always},
    LayerEntry{"self_attn.v_proj.bias", [](LayerWeights& w) -> at::Tensor& { return w.v_proj.bias; }, kv_width,
               has_qkv_bias},
    LayerEntry{"self_attn.q_norm.weight", [](LayerWeights& w) -> at::Tensor& { return w.q_norm; }, head_width,
               has_qk_norm},
    LayerEntry{"self_attn.k_norm.weight", [](LayerWeights& w) -> at::Tensor& { return w.k_norm; }, head_width,
               has_qk_norm},
    LayerEntry{"self_attn.o_proj.weight", [](LayerWeights& w) -> at::Tensor& { return w.o_proj.weight; }, o_matrix,
               always},
    LayerEntry{"self_attn.o_proj.bias", [](LayerWeights& w) -> at::Tensor& { return w.o_proj.bias; }, model_width,
               has_o_bias},
    LayerEntry{"post_attention_layernorm.weight",
               [](LayerWeights& w) -> at::Tensor& { return w.post_attention_layernorm; }, model_width, always},
    LayerEntry{"mlp.gate_proj.weight", [](LayerWeights& w) -> at::Tensor& { return w.gate_proj.weight; }, up_matrix,
               always},
    LayerEntry{"mlp.gate_proj.bias", [](LayerWeights& w) -> at::Tensor& { return w.gate_proj.bias; }, ffn_width,
               has_mlp_bias},
    LayerEntry{"mlp.up_proj.weight", [](LayerWeights& w) -> at::Tensor& { return w.up_proj.weight; }, up_matrix,
               always},
    LayerEntry{"mlp.up_proj.bias", [](LayerWeights& w) -> at::Tensor& { return w.up_proj.bias; }, ffn_width,
               has_mlp_bias},
    LayerEntry{"mlp.down_proj.weight", [](LayerWeights& w) -> at::Tensor& { return w.down_proj.weight; }, down_matrix,
               always},
    LayerEntry{"mlp.down_proj.bias", [](LayerWeights& w) -> at::Tensor& { return w.down_proj.bias; }, model_width,
               has_mlp_bias},
};

constexpr std::string_view kLayerPrefix = "model.layers.";

std::int64_t product(const Shape& shape) {
  std::int64_t result = 1;
  for (const std::int64_t size : shape) result *= size;
  return result;
}

void append_layer(const ModelConfig& config, LayerWeights& layer, std::int64_t index, std::vector<NamedTensor>& out) {
  for (const LayerEntry& entry : kLayerTable) {
    if (!entry.present(config)) continue;
    out.push_back({layer_parameter_name(index, entry.unit), std::string(entry.unit), index, entry.shape(config),
                   &entry.slot(layer)});
  }
}

}  // namespace

std::vector<NamedTensor> named_parameters(const ModelConfig& config, Weights& weights) {
  weights.layers.resize(static_cast<std::size_t>(config.num_hidden_layers));
  std::vector<NamedTensor> table;
  const auto outside = [&](const char* name, Shape shape, at::Tensor& slot) {
    table.push_back({name, name, -1, std::move(shape), &slot});
  };
  outside("model.embed_tokens.weight", {config.vocab_size, config.hidden_size}, weights.embed_tokens);
  for (std::int64_t l = 0; l < config.num_hidden_layers; ++l) {
    append_layer(config, weights.layers[static_cast<std::size_t>(l)], l, table);
  }
  outside("model.norm.weight", {config.hidden_size}, weights.norm);
  if (!config.tie_word_embeddings) {
    outside("lm_head.weight", {config.vocab_size, config.hidden_size}, weights.lm_head);
  }
  return table;
}

std::vector<NamedTensor> layer_parameters(const ModelConfig& config, Weights& weights, std::int64_t layer) {
  ADEPT_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(weights.layers.size()), "layer {} of {}", layer,
              weights.layers.size());
  std::vector<NamedTensor> table;
  append_layer(config, weights.layers[static_cast<std::size_t>(layer)], layer, table);
  return table;
}

std::vector<NamedLinear> named_linears(Weights& weights) {
  std::vector<NamedLinear> linears;
  for (std::size_t l = 0; l < weights.layers.size(); ++l) {
    LayerWeights& w = weights.layers[l];
    const auto add = [&](std::string_view block, std::string_view module_name, LinearWeights& linear) {
      const auto layer = static_cast<std::int64_t>(l);
      linears.push_back({layer_parameter_name(layer, fmt::format("{}.{}", block, module_name)),
                         std::string(module_name), layer, &linear});
    };
    add("self_attn", "q_proj", w.q_proj);
    add("self_attn", "k_proj", w.k_proj);
    add("self_attn", "v_proj", w.v_proj);
    add("self_attn", "o_proj", w.o_proj);
    add("mlp", "gate_proj", w.gate_proj);
    add("mlp", "up_proj", w.up_proj);
    add("mlp", "down_proj", w.down_proj);
  }
  return linears;
}

std::string layer_parameter_name(std::int64_t layer, std::string_view unit) {
  return fmt::format("{}{}.{}", kLayerPrefix, layer, unit);
}

bool split_layer_parameter_name(std::string_view name, std::int64_t& layer, std::string& unit) {
  if (!name.starts_with(kLayerPrefix)) return false;
  const std::string_view rest = name.substr(kLayerPrefix.size());
  std::int64_t index = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
  if (error != std::errc() || index < 0 || end == rest.data() + rest.size() || *end != '.') return false;
  layer = index;
  unit = std::string(rest.substr(static_cast<std::size_t>(end - rest.data()) + 1));
  return true;
}

std::int64_t num_parameters(const ModelConfig& config) {
  Weights weights;
  std::int64_t total = 0;
  for (const NamedTensor& parameter : named_parameters(config, weights)) total += product(parameter.shape);
  return total;
}

std::vector<std::string> non_finite_parameters(const ModelConfig& config, const Weights& weights) {
  Weights shared = weights;
  std::vector<std::string> names;
  for (const NamedTensor& parameter : named_parameters(config, shared)) {
    // A sum is non-finite if an element is; only then is the slower question worth asking.
    const at::Tensor total = parameter.tensor->sum(at::kDouble);
    if (at::isfinite(total).item<bool>()) continue;
    if (!at::isfinite(*parameter.tensor).all().item<bool>()) names.push_back(parameter.name);
  }
  return names;
}

}  // namespace adept::model
