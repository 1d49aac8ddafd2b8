// Small random models in memory, for unit tests.
#pragma once

#include <ATen/Context.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adept/model/config.h"
#include "adept/model/weights.h"

namespace adept::test {

inline Json tiny_config_json(const std::string& model_type = "llama") {
  return Json{
      {"model_type", model_type},      {"hidden_size", 24},        {"intermediate_size", 36}, {"num_hidden_layers", 3},
      {"num_attention_heads", 6},      {"num_key_value_heads", 2}, {"head_dim", 4},           {"vocab_size", 53},
      {"rms_norm_eps", 1e-5},          {"hidden_act", "silu"},     {"bos_token_id", 1},       {"eos_token_id", 2},
      {"max_position_embeddings", 128}};
}

inline model::ModelConfig tiny_config(Json json = tiny_config_json()) {
  return model::parse_model_config(json, "tiny");
}

/// Every tensor random, norms and biases too.
inline model::Weights random_weights(const model::ModelConfig& config, std::uint64_t seed = 5,
                                     at::ScalarType dtype = at::kFloat) {
  at::manual_seed(seed);
  model::Weights weights;
  for (const auto& parameter : model::named_parameters(config, weights)) {
    const bool norm = parameter.name.find("norm") != std::string::npos;
    at::Tensor value =
        norm ? at::rand(parameter.shape).add_(0.5 - parameter.offset) : at::randn(parameter.shape).mul_(0.3);
    *parameter.tensor = value.to(dtype);
  }
  if (config.tie_word_embeddings) weights.lm_head = weights.embed_tokens;
  return weights;
}

/// The slot of a tensor, by its whole name.
inline at::Tensor& slot_of(const model::ModelConfig& config, model::Weights& weights, const std::string& name) {
  for (const auto& parameter : model::named_parameters(config, weights))
    if (parameter.name == name) return *parameter.tensor;
  throw std::runtime_error("no tensor " + name);
}

/// The window of each layer.
inline std::vector<std::int64_t> windows_of(const model::ModelConfig& config) {
  std::vector<std::int64_t> windows;
  for (const model::Layer& layer : config.layers) windows.push_back(layer.attention.body.window);
  return windows;
}

/// Whether layers have a parameter of this name.
inline bool has_parameter(const model::ModelConfig& config, std::string_view local_name) {
  model::Layer layer = config.layers.front();
  for (const model::Parameter& p : model::parameters_of(layer))
    if (p.local_name == local_name) return true;
  return false;
}

}  // namespace adept::test
