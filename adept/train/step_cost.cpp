#include "adept/train/step_cost.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>

#include "adept/core/cpu.h"
#include "adept/core/version_info.h"
#include "adept/kernels/instruction_set.h"
#include "adept/nn/matmul.h"

namespace adept::train {
namespace {

bool trains(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

// Follows a token through the model, and the gradient back to where it ends.
class Counter {
 public:
  explicit Counter(bool gradient_flows) : flows_(gradient_flows) {}

  void gain(const at::Tensor& weight) { flows_ |= trains(weight); }

  /// Projections of the same input.
  void projections(std::initializer_list<const model::LinearWeights*> linears) {
    bool any_trains = false;
    for (const model::LinearWeights* linear : linears) any_trains |= project(*linear);
    flows_ |= any_trains;
  }

  void matrix(const at::Tensor& weight) {
    product(static_cast<double>(weight.numel()), flows_, trains(weight));
    flows_ |= trains(weight);
  }

  void attention(double forward_flops) { flops_ += flows_ ? 3 * forward_flops : forward_flops; }

  double flops() const { return flops_; }

 private:
  void product(double weights, bool input_gradient, bool weight_gradient) {
    flops_ += 2 * weights * (1.0 + (input_gradient ? 1 : 0) + (weight_gradient ? 1 : 0));
  }

  bool project(const model::LinearWeights& linear) {
    const nn::LoraAdapter& adapter = linear.adapter;
    product(static_cast<double>(linear.weight.numel()), flows_, trains(linear.weight));
    if (adapter.a.defined()) {
      product(static_cast<double>(adapter.a.numel()), flows_, trains(adapter.a));
      product(static_cast<double>(adapter.b.numel()), flows_ || trains(adapter.a), trains(adapter.b));
    }
    return trains(linear.weight) || trains(linear.bias) || trains(adapter.a) || trains(adapter.b);
  }

  double flops_ = 0;
  bool flows_;
};

void count_layer(Counter& counter, const model::ModelConfig& config, const model::LayerWeights& w, std::int64_t l,
                 std::int64_t seq_len) {
  const std::int64_t window = config.sliding_window[static_cast<std::size_t>(l)];
  const auto visible = static_cast<double>(window > 0 ? std::min(window, seq_len) : seq_len);
  const auto length = static_cast<double>(seq_len);
  const double mean_visible = visible * (length - visible / 2) / length;  // of causal queries
  counter.gain(w.input_layernorm);
  counter.projections({&w.q_proj, &w.k_proj, &w.v_proj});
  counter.gain(w.q_norm);
  counter.gain(w.k_norm);
  counter.attention(2 * 2 * static_cast<double>(config.num_attention_heads * config.head_dim) * mean_visible);
  counter.projections({&w.o_proj});
  counter.gain(w.post_attention_layernorm);
  counter.projections({&w.gate_proj, &w.up_proj});
  counter.projections({&w.down_proj});
}

}  // namespace

StepCost step_cost(const model::Decoder& decoder, std::int64_t lowest_layer, std::int64_t seq_len) {
  const model::Weights& weights = decoder.weights();
  Counter prefix(trains(weights.embed_tokens));
  for (std::int64_t l = 0; l < lowest_layer; ++l)
    count_layer(prefix, decoder.config(), weights.layers[static_cast<std::size_t>(l)], l, seq_len);
  Counter rest(trains(weights.embed_tokens));
  for (std::int64_t l = lowest_layer; l < decoder.num_layers(); ++l)
    count_layer(rest, decoder.config(), weights.layers[static_cast<std::size_t>(l)], l, seq_len);
  rest.gain(weights.norm);
  rest.matrix(weights.lm_head);
  return {.prefix_flops = prefix.flops(), .flops = rest.flops()};
}

std::string describe_compute(at::ScalarType dtype, at::Device device) {
  const bool own_products = nn::has_matmul_kernel(at::empty({0}, at::TensorOptions(dtype).device(device)));
  return fmt::format("{}, {} threads, {}{}, {}, torch {}", device.is_cpu() ? cpu_model_name() : gpu_model_name(),
                     at::get_num_threads(), kernels::to_string(kernels::instruction_set()),
                     own_products ? " products" : "", at::toString(dtype), kTorchVersion);
}

}  // namespace adept::train
