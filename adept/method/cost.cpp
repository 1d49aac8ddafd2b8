#include "adept/method/cost.h"

namespace adept::method {
namespace {

struct LayerCost {
  double weights = 0;    // of the matrices of a layer: P
  double attention = 0;  // flops per token of q k^T and of the mixing, causal: a
  double head = 0;       // h
};

LayerCost layer_cost(const model::ModelConfig& c, std::int64_t seq_len) {
  const auto hidden = static_cast<double>(c.hidden_size), ffn = static_cast<double>(c.intermediate_size);
  const auto queries = static_cast<double>(c.num_attention_heads * c.head_dim);
  const auto keys = static_cast<double>(c.num_key_value_heads * c.head_dim);
  return {.weights = hidden * (2 * queries + 2 * keys + 3 * ffn),
          .attention = 2 * 2 * queries * 0.5 * static_cast<double>(seq_len),
          .head = 2 * hidden * static_cast<double>(c.vocab_size)};
}

}  // namespace

double step_flops_per_token(const model::ModelConfig& base, std::int64_t seq_len, int lowest_source, int num_copies) {
  const LayerCost cost = layer_cost(base, seq_len);
  const auto layers = static_cast<double>(base.num_hidden_layers), copies = static_cast<double>(num_copies);
  const double frozen_above = layers - 1 - lowest_source;
  const double forward = (layers + copies) * (2 * cost.weights + cost.attention) + cost.head;
  const double backward = cost.head + frozen_above * (2 * cost.weights + 2 * cost.attention) +
                          copies * (4 * cost.weights + 2 * cost.attention);
  return forward + backward;
}

double step_flops_per_token(const model::ModelConfig& base, std::int64_t seq_len, std::span<const int> after) {
  return step_flops_per_token(base, seq_len, after.front(), static_cast<int>(after.size()));
}

double full_step_flops_per_token(const model::ModelConfig& config, std::int64_t seq_len) {
  const LayerCost cost = layer_cost(config, seq_len);
  return 3 * (static_cast<double>(config.num_hidden_layers) * (2 * cost.weights + cost.attention) + cost.head);
}

}  // namespace adept::method
