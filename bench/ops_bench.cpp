// Single operations of adept/nn beside ATen's, interleaved: `adept_ops_bench --threads 2`.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "adept/nn/attention.h"

namespace adept::bench {
namespace {

struct Shape {
  std::int64_t batch, heads, kv_heads, tokens, head_dim;
};

using Attention = std::function<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&)>;

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// One line for each pass: median milliseconds and GFLOP/s of both, causal positions alone counted.
void compare(const Shape& s, at::ScalarType type, int repeats) {
  const auto input = [&](std::int64_t heads) {
    return at::randn({s.batch, s.tokens, heads, s.head_dim}).to(type).requires_grad_();
  };
  const at::Tensor q = input(s.heads), k = input(s.kv_heads), v = input(s.kv_heads);
  const at::Tensor direction = at::randn_like(q.transpose(1, 2));
  const std::vector<Attention> implementations = {
      [&](const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
        return at::scaled_dot_product_attention(a, b, c, std::nullopt, 0.0, true, std::nullopt, s.heads != s.kv_heads);
      },
      [](const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) { return nn::causal_attention(a, b, c); }};
  std::vector<std::vector<double>> forward(2), backward(2);
  for (int i = -1; i < repeats; ++i)
    for (std::size_t which = 0; which < 2; ++which) {
      at::Tensor out;
      const double f =
          seconds([&] { out = implementations[which](q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)); });
      const double b = seconds([&] { torch::autograd::grad({out}, {q, k, v}, {direction}); });
      if (i < 0) continue;
      forward[which].push_back(f);
      backward[which].push_back(b);
    }
  const double products = 2.0 * s.batch * s.heads * (0.5 * s.tokens * (s.tokens + 1)) * s.head_dim;
  const auto line = [&](const char* pass, const auto& times, double flops) {
    const double aten = median(times[0]), ours = median(times[1]);
    fmt::print(
        "{:>2} x {:>2}/{} heads x {:>4} x {:>3} {:>5} {:>9} {:>8.2f} ms {:>5.0f} {:>8.2f} ms {:>5.0f} {:>6.2f}x\n",
        s.batch, s.heads, s.kv_heads, s.tokens, s.head_dim, type == at::kFloat ? "fp32" : "bf16", pass, 1e3 * aten,
        1e-9 * flops / aten, 1e3 * ours, 1e-9 * flops / ours, aten / ours);
  };
  line("forward", forward, 2 * products);
  line("backward", backward, 5 * products);
}

}  // namespace
}  // namespace adept::bench

int main(int argc, char** argv) {
  int threads = 2, repeats = 11;
  CLI::App app("Attention beside ATen's");
  app.add_option("--threads", threads)->capture_default_str();
  app.add_option("--repeats", repeats)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);
  fmt::print("{:>40} {:>9} {:>11} GFLOP/s {:>7} GFLOP/s\n", "", "", "ATen", "adept");
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const adept::bench::Shape& shape : std::vector<adept::bench::Shape>{
             {4, 9, 3, 512, 64}, {2, 16, 8, 512, 128}, {1, 9, 3, 2048, 64}, {2, 4, 4, 512, 80}})
      adept::bench::compare(shape, type, repeats);
}
