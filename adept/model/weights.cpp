#include "adept/model/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "adept/core/error.h"
#include "adept/model/weight_names.h"

namespace adept::model {
namespace {

constexpr std::string_view kLayerPrefix = "model.layers.";

void append_layer(Layer& layer, std::int64_t index, std::vector<Parameter>& out) {
  for (Parameter& p : parameters_of(layer)) {
    p.name = layer_parameter_name(index, p.local_name);
    p.gguf_name = fmt::format("blk.{}.{}", index, p.gguf_name);
    p.layer = index;
    out.push_back(std::move(p));
  }
}

std::int64_t total(const std::vector<Parameter>& parameters) {
  std::int64_t elements = 0;
  for (const Parameter& p : parameters) elements += p.numel();
  return elements;
}

}  // namespace

std::vector<Parameter> named_parameters(const ModelConfig& config, Weights& weights) {
  if (weights.layers.empty()) {
    weights.layers = config.layers;
    weights.norm = config.norm;
  }
  ADEPT_CHECK(weights.layers.size() == config.layers.size(), "weights of {} layers for {}", weights.layers.size(),
              config.layers.size());
  std::vector<Parameter> table;
  const auto outside = [&](std::string_view name, std::string_view gguf_name, Role role,
                           std::vector<std::int64_t> shape, at::Tensor& slot) {
    Parameter& p = table.emplace_back();
    p.name = p.local_name = name;
    p.gguf_name = gguf_name;
    p.role = role;
    p.shape = std::move(shape);
    p.tensor = &slot;
  };
  const std::vector<std::int64_t> matrix = {config.vocab_size, config.hidden_size};
  outside(kEmbeddingName, "token_embd.weight", Role::kEmbedding, matrix, weights.embed_tokens.weight);
  for (std::size_t l = 0; l < weights.layers.size(); ++l)
    append_layer(weights.layers[l], static_cast<std::int64_t>(l), table);
  outside("model.norm.weight", "output_norm.weight", Role::kNorm, {config.hidden_size}, weights.norm.weight);
  table.back().offset = weights.norm.offset();
  if (!config.tie_word_embeddings) outside(kHeadName, "output.weight", Role::kHead, matrix, weights.lm_head.weight);
  return table;
}

std::vector<Parameter> layer_parameters(Weights& weights, std::int64_t layer) {
  ADEPT_CHECK(layer >= 0 && layer < std::ssize(weights.layers), "layer {} of {}", layer, weights.layers.size());
  std::vector<Parameter> table;
  append_layer(weights.layers[static_cast<std::size_t>(layer)], layer, table);
  return table;
}

std::vector<Parameter> residual_outputs(Weights& weights, std::int64_t layer) {
  std::vector<Parameter> outputs = layer_parameters(weights, layer);
  std::erase_if(outputs, [](const Parameter& p) { return p.role != Role::kResidualOutput; });
  return outputs;
}

std::vector<NamedProjection> named_projections(std::vector<Layer>& layers) {
  std::vector<NamedProjection> found;
  for (std::size_t l = 0; l < layers.size(); ++l)
    for (Projection* p : projections_of(layers[l])) {
      const auto layer = static_cast<std::int64_t>(l);
      found.push_back({layer_parameter_name(layer, p->name), std::string(p->module_name()), layer, p});
    }
  return found;
}

std::string layer_parameter_name(std::int64_t layer, std::string_view local_name) {
  return fmt::format("{}{}.{}", kLayerPrefix, layer, local_name);
}

bool split_layer_parameter_name(std::string_view name, std::int64_t& layer, std::string& local_name) {
  if (!name.starts_with(kLayerPrefix)) return false;
  const std::string_view rest = name.substr(kLayerPrefix.size());
  std::int64_t index = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
  if (error != std::errc() || index < 0 || end == rest.data() + rest.size() || *end != '.') return false;
  layer = index;
  local_name = std::string(rest.substr(static_cast<std::size_t>(end - rest.data()) + 1));
  return true;
}

std::int64_t num_parameters(const ModelConfig& config) {
  Weights slots;
  return total(named_parameters(config, slots));
}

std::int64_t num_parameters(const Layer& layer) {
  Layer slots = layer;
  return total(parameters_of(slots));
}

}  // namespace adept::model
