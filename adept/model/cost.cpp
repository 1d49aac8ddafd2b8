#include "adept/model/cost.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace adept::model {
namespace {

using Trains = std::function<bool(const at::Tensor& slot)>;

bool requires_gradient(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

// Follows a token through the model, and the gradient back to where it ends.
class Counter {
 public:
  Counter(std::int64_t seq_len, bool gradient_flows) : seq_len_(seq_len), flows_(gradient_flows) {}

  void layer(const Layer& layer, const Trains& trains) {
    branch(layer.attention, trains);
    branch(layer.feed_forward, trains);
  }

  void norm(const Norm& norm, const Trains& trains) { flows_ |= trains(norm.weight); }

  void matrix(double elements, bool trains) {
    product(elements, trains);
    flows_ |= trains;
  }

  void weight_gradient(double elements) { flops_ += 2 * elements; }

  double flops() const { return flops_; }

 private:
  template <typename Body>
  void branch(const Branch<Body>& branch, const Trains& trains) {
    const Body& body = branch.body;
    if (branch.pre_norm) norm(*branch.pre_norm, trains);
    bool any_trains = false;  // the inputs read the same
    for (const Projection& p : body.inputs) any_trains |= project(p, trains);
    flows_ |= any_trains;
    mix(body, trains);
    flows_ |= project(body.output, trains);
    if (branch.post_norm) norm(*branch.post_norm, trains);
  }

  void mix(const FeedForward&, const Trains&) {}
  void mix(const Attention& body, const Trains& trains) {
    for (const auto* head_norm : {&body.q_norm, &body.k_norm})
      if (*head_norm) norm(**head_norm, trains);
    const auto length = static_cast<double>(seq_len_);
    const auto visible = static_cast<double>(body.window > 0 ? std::min(body.window, seq_len_) : seq_len_);
    const double mean_visible = visible * (length - visible / 2) / length;  // of causal queries
    const double forward = 2 * 2 * static_cast<double>(body.num_heads * body.head_dim) * mean_visible;
    flops_ += flows_ ? 3 * forward : forward;
  }

  // Forward, the gradient of the input where it flows, that of the weight where it trains.
  void product(double elements, bool trains) { flops_ += 2 * elements * (1 + (flows_ ? 1 : 0) + (trains ? 1 : 0)); }

  // Whether it trains in any way.
  bool project(const Projection& p, const Trains& trains) {
    const auto& [weight, bias, adapter] = p.linear;
    const bool weight_trains = trains(weight), bias_trains = p.has_bias && trains(bias);
    product(static_cast<double>(p.rows * p.columns), weight_trains);
    if (!adapter.a.defined()) return weight_trains || bias_trains;
    const bool a_trains = trains(adapter.a), b_trains = trains(adapter.b);
    product(static_cast<double>(adapter.a.numel()), a_trains);
    const bool flowed = std::exchange(flows_, flows_ || a_trains);
    product(static_cast<double>(adapter.b.numel()), b_trains);
    flows_ = flowed;
    return weight_trains || bias_trains || a_trains || b_trains;
  }

  double flops_ = 0;
  std::int64_t seq_len_;
  bool flows_;
};

double head_elements(const ModelConfig& config) { return static_cast<double>(config.hidden_size * config.vocab_size); }

}  // namespace

StepCost step_cost(const Weights& weights, std::int64_t lowest_layer, std::int64_t seq_len, bool trains_a_token) {
  const bool embeddings_train = trains_a_token || requires_gradient(weights.embed_tokens.weight);
  Counter prefix(seq_len, embeddings_train), rest(seq_len, embeddings_train);
  for (std::int64_t l = 0; l < std::ssize(weights.layers); ++l)
    (l < lowest_layer ? prefix : rest).layer(weights.layers[static_cast<std::size_t>(l)], requires_gradient);
  rest.norm(weights.norm, requires_gradient);
  rest.matrix(static_cast<double>(weights.lm_head.weight.numel()), requires_gradient(weights.lm_head.weight));
  if (const nn::TrainedRows& rows = weights.lm_head.trained; rows.any() && requires_gradient(rows.values))
    rest.weight_gradient(static_cast<double>(rows.values.numel()));
  return {.prefix_flops = prefix.flops(), .flops = rest.flops()};
}

double layer_flops(const Layer& layer, std::int64_t seq_len, bool gradient, bool trains) {
  Counter counter(seq_len, gradient);
  counter.layer(layer, [&](const at::Tensor&) { return trains; });
  return counter.flops();
}

double head_flops(const ModelConfig& config, bool gradient) {
  Counter counter(1, gradient);
  counter.matrix(head_elements(config), false);
  return counter.flops();
}

double copies_step_flops(const ModelConfig& base, std::int64_t seq_len, std::span<const int> after) {
  Counter counter(seq_len, false);
  for (std::size_t l = 0; l < base.layers.size(); ++l) {
    counter.layer(base.layers[l], [](const at::Tensor&) { return false; });
    for (auto copies = std::count(after.begin(), after.end(), static_cast<int>(l)); copies > 0; --copies)
      counter.layer(base.layers[l], [](const at::Tensor&) { return true; });
  }
  counter.matrix(head_elements(base), false);
  return counter.flops();
}

double full_step_flops(const ModelConfig& config, std::int64_t seq_len) {
  Counter counter(seq_len, true);
  for (const Layer& layer : config.layers) counter.layer(layer, [](const at::Tensor&) { return true; });
  counter.matrix(head_elements(config), true);
  return counter.flops();
}

}  // namespace adept::model
