// Single operations of adept/nn beside ATen's or their plain references, interleaved: `adept_ops_bench` at the shapes
// of models, `adept_ops_bench --cases '*'` at those of the tests.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <torch/csrc/autograd/autograd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "adept/nn/allocator.h"
#include "adept/nn/attention.h"
#include "adept/nn/matmul.h"
#include "adept/nn/reference.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"
#include "adept/nn/swiglu.h"
#include "tests/support/operation_cases.h"

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

struct Product {
  const char* pass;
  std::int64_t rows, depth, columns;
  bool a_transposed, b_transposed;  // in memory
};

// One line: median milliseconds and GFLOP/s of both.
void compare(const std::string& what, at::ScalarType type, const char* pass, double flops, int repeats,
             const std::function<void()>& by_aten, const std::function<void()>& by_adept) {
  std::vector<double> aten, ours;
  for (int i = -1; i < repeats; ++i) {
    const double first = seconds(by_aten), second = seconds(by_adept);
    if (i < 0) continue;
    aten.push_back(first);
    ours.push_back(second);
  }
  const double x = median(aten), y = median(ours);
  fmt::print("{:<33} {:>5} {:>9} {:>8.2f} ms {:>5.0f} {:>8.2f} ms {:>5.0f} {:>6.2f}x\n", what,
             type == at::kFloat ? "fp32" : "bf16", pass, 1e3 * x, 1e-9 * flops / x, 1e3 * y, 1e-9 * flops / y, x / y);
}

void compare(const Product& p, at::ScalarType type, int repeats) {
  const auto input = [&](std::int64_t rows, std::int64_t columns, bool transposed) {
    const at::Tensor t = transposed ? at::randn({columns, rows}).t() : at::randn({rows, columns});
    return t.to(type);
  };
  const at::Tensor a = input(p.rows, p.depth, p.a_transposed), b = input(p.depth, p.columns, p.b_transposed);
  compare(
      fmt::format("{:>5} x {:>5} x {:>6}", p.rows, p.depth, p.columns), type, p.pass,
      2.0 * p.rows * p.depth * p.columns, repeats, [&] { at::mm(a, b); }, [&] { nn::matmul_by_kernel(a, b); });
}

// Losses of a vocabulary: logits and their log-softmax by ATen, chunk by chunk, beside the kernel that writes neither.
void compare_scores(at::ScalarType type, int repeats) {
  constexpr std::int64_t kTokens = 2048, kWidth = 576, kVocabulary = 49152, kChunk = 512;
  const at::Tensor hidden = at::randn({kTokens, kWidth}).to(type), head = at::randn({kVocabulary, kWidth}).to(type);
  const at::Tensor targets = at::randint(0, kVocabulary, {kTokens}, at::kLong);
  const auto by_aten = [&] {
    for (std::int64_t n = 0; n < kTokens; n += kChunk)
      at::log_softmax(at::mm(hidden.narrow(0, n, kChunk), head.t()), 1, at::kFloat)
          .gather(1, targets.narrow(0, n, kChunk).unsqueeze(1));
  };
  compare(fmt::format("{:>5} x {:>5} x {:>6}", kTokens, kWidth, kVocabulary), type, "losses",
          2.0 * kTokens * kWidth * kVocabulary, repeats, by_aten, [&] { nn::scores_by_kernel(hidden, head, targets); });
}

/// An operation that goes over memory, and how often each pass reads or writes a tensor of the size of its first input.
struct Sweep {
  const char* name;
  std::vector<at::Tensor> inputs;
  std::function<at::Tensor(const std::vector<at::Tensor>&)> fast, reference;
  int forward, backward;
};

// Two lines: median milliseconds and GB/s of memory that must be read and written, of the plain reference and of ours.
void compare(const Sweep& sweep, at::ScalarType type, int repeats) {
  std::vector<at::Tensor> inputs;
  for (const at::Tensor& input : sweep.inputs) inputs.push_back(input.to(type).requires_grad_());
  const double bytes = static_cast<double>(inputs[0].numel()) * static_cast<double>(inputs[0].element_size());
  const at::Tensor direction = at::randn_like(sweep.fast(inputs));
  std::vector<std::vector<double>> forward(2), backward(2);
  for (int i = -1; i < repeats; ++i)
    for (std::size_t which = 0; which < 2; ++which) {
      at::Tensor y;
      const double f = seconds([&] { y = which == 0 ? sweep.reference(inputs) : sweep.fast(inputs); });
      const double b = seconds([&] { torch::autograd::grad({y}, inputs, {direction}); });
      if (i < 0) continue;
      forward[which].push_back(f);
      backward[which].push_back(b);
    }
  const auto line = [&](const char* pass, const auto& times, int passes) {
    const double x = median(times[0]), y = median(times[1]), moved = 1e-9 * passes * bytes;
    fmt::print("{:<33} {:>5} {:>9} {:>8.2f} ms {:>5.1f} {:>8.2f} ms {:>5.1f} {:>6.2f}x\n", sweep.name,
               type == at::kFloat ? "fp32" : "bf16", pass, 1e3 * x, moved / x, 1e3 * y, moved / y, x / y);
  };
  line("forward", forward, sweep.forward);
  line("backward", backward, sweep.backward);
}

std::vector<Sweep> sweeps(at::ScalarType type) {
  const at::Tensor hidden = at::randn({4, 512, 576}), gate = at::randn({4, 512, 1536}), up = at::randn({4, 512, 1536});
  const at::Tensor heads = at::randn({4, 512, 9, 64}).transpose(1, 2);
  const nn::RopeTables tables = nn::rope_tables({}, 64, 512, type);
  return {{"rms_norm of 2048 x 576",
           {hidden, at::randn({576})},
           [](const auto& x) { return nn::rms_norm(x[0], x[1], 1e-5); },
           [](const auto& x) { return nn::reference::rms_norm(x[0], x[1], 1e-5); },
           2,
           3},
          {"apply_rope of 2048 x 9 x 64",
           {heads},
           [=](const auto& x) { return nn::apply_rope(x[0], tables); },
           [=](const auto& x) { return nn::reference::apply_rope(x[0], tables); },
           2,
           2},
          {"swiglu of 2048 x 1536",
           {gate, up},
           [](const auto& x) { return nn::swiglu(x[0], x[1]); },
           [](const auto& x) { return nn::reference::swiglu(x[0], x[1]); },
           3,
           5}};
}

// Two lines for a case of the tests: median milliseconds of its plain reference and of the fast version.
void compare(const test::OperationCase& c, at::ScalarType type, int repeats) {
  test::OperationInputs inputs;
  for (const at::Tensor& input : c.inputs(type)) inputs.push_back(input.detach().requires_grad_());
  const at::Tensor direction = at::randn_like(c.fast(inputs));
  std::vector<std::vector<double>> forward(2), backward(2);
  for (int i = -1; i < repeats; ++i)
    for (std::size_t which = 0; which < 2; ++which) {
      at::Tensor y;
      const double f = seconds([&] { y = which == 0 ? c.reference(inputs) : c.fast(inputs); });
      const double b = seconds([&] { torch::autograd::grad({y}, inputs, {direction}); });
      if (i < 0) continue;
      forward[which].push_back(f);
      backward[which].push_back(b);
    }
  const auto line = [&](const char* pass, const auto& times) {
    const double x = median(times[0]), y = median(times[1]);
    fmt::print("{:<50} {:>5} {:>9} {:>9.3f} ms {:>9.3f} ms {:>6.2f}x\n", c.name, type == at::kFloat ? "fp32" : "bf16",
               pass, 1e3 * x, 1e3 * y, x / y);
  };
  line("forward", forward);
  line("backward", backward);
}

/// False if no case of the tests has such a name.
bool time_cases(const std::string& pattern, int repeats) {
  bool found = false;
  for (const test::OperationCase& c : test::operation_cases()) {
    if (fnmatch(pattern.c_str(), c.name.c_str(), 0) != 0) continue;
    if (!found) fmt::print("{:>66} {:>12} {:>12}\n", "", "reference", "adept");
    found = true;
    for (const auto type : {at::kFloat, at::kBFloat16}) compare(c, type, repeats);
  }
  return found;
}

void time_model_shapes(int repeats) {
  const std::vector<at::ScalarType> types = {at::kFloat, at::kBFloat16};
  fmt::print("{:>40} {:>9} {:>11} GFLOP/s {:>7} GFLOP/s\n", "", "", "ATen", "adept");
  for (const auto type : types)
    for (const Shape& shape :
         {Shape{4, 9, 3, 512, 64}, Shape{2, 16, 8, 512, 128}, Shape{1, 9, 3, 2048, 64}, Shape{2, 4, 4, 512, 80}})
      compare(shape, type, repeats);
  for (const auto type : types)
    for (const Product& product :
         {Product{"y", 2048, 576, 1536, false, true}, Product{"dx", 2048, 1536, 576, false, false},
          Product{"dw", 1536, 2048, 576, true, false}, Product{"y", 2048, 1536, 576, false, true},
          Product{"y", 2048, 576, 192, false, true}, Product{"logits", 682, 576, 49152, false, true},
          Product{"dlogits", 682, 49152, 576, false, false}})
      compare(product, type, repeats);
  for (const auto type : types) compare_scores(type, repeats);
  fmt::print("\n{:>40} {:>9} {:>11}    GB/s {:>7}    GB/s\n", "", "", "reference", "adept");
  for (const auto type : types)
    for (const Sweep& sweep : sweeps(type)) compare(sweep, type, repeats);
}

}  // namespace
}  // namespace adept::bench

int main(int argc, char** argv) {
  int threads = 2, repeats = 11;
  std::string cases;
  CLI::App app("Attention and matrix products beside ATen's, the rest beside its plain references");
  app.add_option("--threads", threads)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--repeats", repeats)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--cases", cases, "Time the cases of the tests with such names instead, beside their references")
      ->type_name("PATTERN");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);
  adept::nn::use_caching_allocator();
  if (cases.empty()) {
    adept::bench::time_model_shapes(repeats);
  } else if (!adept::bench::time_cases(cases, repeats)) {
    fmt::print(stderr, "--cases: no case is called \"{}\"; expected a pattern such as 'Attention*'.\n", cases);
    return 1;
  }
}
