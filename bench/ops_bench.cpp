// Single operations of adept/nn beside ATen's or their plain references, interleaved: `adept_ops_bench` at the shapes
// of models, `adept_ops_bench --cases '*'` at those of the tests.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/cpu.h"
#include "adept/core/error.h"
#include "adept/nn/allocator.h"
#include "adept/nn/attention.h"
#include "adept/nn/gate.h"
#include "adept/nn/matmul.h"
#include "adept/nn/reference.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"
#include "bench/program.h"
#include "tests/support/operation_cases.h"

namespace adept::bench {
namespace {

struct Shape {
  std::int64_t batch, heads, kv_heads, tokens, head_dim;
};

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Median seconds of a pass of the reference, and of ours.
struct Pair {
  double reference = 0, ours = 0;
};
struct Passes {
  Pair forward, backward;
};

// Interleaved; the first turn of each is warm-up.
Passes time_passes(const test::Operation& reference, const test::Operation& ours, const test::OperationInputs& values,
                   int repeats) {
  test::OperationInputs inputs;
  for (const at::Tensor& value : values) inputs.push_back(value.detach().requires_grad_());
  const at::Tensor direction = at::randn_like(ours(inputs));
  std::vector<double> forward[2], backward[2];
  for (int i = -1; i < repeats; ++i)
    for (const int which : {0, 1}) {
      at::Tensor y;
      const double f = seconds([&] { y = which == 0 ? reference(inputs) : ours(inputs); });
      const double b = seconds([&] { torch::autograd::grad({y}, inputs, {direction}); });
      if (i < 0) continue;
      forward[which].push_back(f);
      backward[which].push_back(b);
    }
  return {{median(forward[0]), median(forward[1])}, {median(backward[0]), median(backward[1])}};
}

const char* name_of(at::ScalarType type) { return type == at::kFloat ? "fp32" : "bf16"; }

// One line for each pass: milliseconds and GFLOP/s of both, causal positions alone counted.
void compare(const Shape& s, at::ScalarType type, int repeats) {
  const auto input = [&](std::int64_t heads) { return at::randn({s.batch, s.tokens, heads, s.head_dim}).to(type); };
  const auto by_heads = [](const test::OperationInputs& x, std::size_t i) { return x[i].transpose(1, 2); };
  const Passes passes = time_passes(
      [&](const auto& x) {
        return at::scaled_dot_product_attention(by_heads(x, 0), by_heads(x, 1), by_heads(x, 2), std::nullopt, 0.0, true,
                                                std::nullopt, s.heads != s.kv_heads);
      },
      [&](const auto& x) { return nn::causal_attention(by_heads(x, 0), by_heads(x, 1), by_heads(x, 2)); },
      {input(s.heads), input(s.kv_heads), input(s.kv_heads)}, repeats);
  const double products = 2.0 * s.batch * s.heads * (0.5 * s.tokens * (s.tokens + 1)) * s.head_dim;
  const auto line = [&](const char* pass, const Pair& time, double flops) {
    fmt::print(
        "{:>2} x {:>2}/{} heads x {:>4} x {:>3} {:>5} {:>9} {:>8.2f} ms {:>5.0f} {:>8.2f} ms {:>5.0f} {:>6.2f}x\n",
        s.batch, s.heads, s.kv_heads, s.tokens, s.head_dim, name_of(type), pass, 1e3 * time.reference,
        1e-9 * flops / time.reference, 1e3 * time.ours, 1e-9 * flops / time.ours, time.reference / time.ours);
  };
  line("forward", passes.forward, 2 * products);
  line("backward", passes.backward, 5 * products);
}

// (B, T) int32: where each position's document starts. Documents of 100 to 400 tokens, the first and last ones cut.
at::Tensor random_document_starts(std::int64_t batch, std::int64_t tokens) {
  at::Tensor starts = at::empty({batch, tokens}, at::kInt);
  for (std::int64_t row = 0; row < batch; ++row)
    for (std::int64_t start = 0, end = 0; start < tokens; start = end) {
      const std::int64_t length = at::randint(100, 401, {1}).item<std::int64_t>();
      end = std::min(tokens, start + length);
      starts.select(0, row).slice(0, start, end).fill_(start);
    }
  return starts;
}

// One line for each pass: attention over rows of one document, and over rows packed from several, which skips the
// blocks of keys that no query attends to.
void compare_documents(const Shape& s, at::ScalarType type, int repeats) {
  const auto input = [&](std::int64_t heads) {
    return at::randn({s.batch, s.tokens, heads, s.head_dim}).to(type).transpose(1, 2);
  };
  const nn::Visibility documents = {.document_starts = random_document_starts(s.batch, s.tokens)};
  const Passes passes = time_passes([](const auto& x) { return nn::causal_attention(x[0], x[1], x[2]); },
                                    [&](const auto& x) { return nn::causal_attention(x[0], x[1], x[2], documents); },
                                    {input(s.heads), input(s.kv_heads), input(s.kv_heads)}, repeats);
  const auto line = [&](const char* pass, const Pair& time) {
    fmt::print("{:>2} x {:>2}/{} heads x {:>4} x {:>3} {:>5} {:>9} {:>8.2f} ms {:>14.2f} ms {:>6.2f}\n", s.batch,
               s.heads, s.kv_heads, s.tokens, s.head_dim, name_of(type), pass, 1e3 * time.reference, 1e3 * time.ours,
               time.ours / time.reference);
  };
  line("forward", passes.forward);
  line("backward", passes.backward);
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
  fmt::print("{:<33} {:>5} {:>9} {:>8.2f} ms {:>5.0f} {:>8.2f} ms {:>5.0f} {:>6.2f}x\n", what, name_of(type), pass,
             1e3 * x, 1e-9 * flops / x, 1e3 * y, 1e-9 * flops / y, x / y);
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

/// An operation that goes over memory, and how often each pass reads or writes a tensor of the size of its first input.
struct Sweep {
  const char* name;
  test::OperationInputs inputs;
  test::Operation fast, reference;
  int forward, backward;
};

// Two lines: milliseconds and GB/s of memory that must be read and written, of the plain reference and of ours.
void compare(const Sweep& sweep, at::ScalarType type, int repeats) {
  test::OperationInputs inputs;
  for (const at::Tensor& input : sweep.inputs) inputs.push_back(input.to(type));
  const double bytes = static_cast<double>(inputs[0].numel()) * static_cast<double>(inputs[0].element_size());
  const Passes passes = time_passes(sweep.reference, sweep.fast, inputs, repeats);
  const auto line = [&](const char* pass, const Pair& time, int times) {
    const double moved = 1e-9 * times * bytes;
    fmt::print("{:<33} {:>5} {:>9} {:>8.2f} ms {:>5.1f} {:>8.2f} ms {:>5.1f} {:>6.2f}x\n", sweep.name, name_of(type),
               pass, 1e3 * time.reference, moved / time.reference, 1e3 * time.ours, moved / time.ours,
               time.reference / time.ours);
  };
  line("forward", passes.forward, sweep.forward);
  line("backward", passes.backward, sweep.backward);
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
           [](const auto& x) { return nn::gated(x[0], x[1], nn::Activation::kSilu); },
           [](const auto& x) { return nn::reference::gated(x[0], x[1], nn::Activation::kSilu); },
           3,
           5}};
}

// Two lines for a case of the tests: milliseconds of its plain reference and of the fast version.
void compare(const test::OperationCase& c, at::ScalarType type, int repeats) {
  const Passes passes = time_passes(c.reference, c.fast, c.inputs(type), repeats);
  const auto line = [&](const char* pass, const Pair& time) {
    fmt::print("{:<50} {:>5} {:>9} {:>9.3f} ms {:>9.3f} ms {:>6.2f}x\n", c.name, name_of(type), pass,
               1e3 * time.reference, 1e3 * time.ours, time.reference / time.ours);
  };
  line("forward", passes.forward);
  line("backward", passes.backward);
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
  fmt::print("\n{:>40} {:>9} {:>11} {:>17} {:>6}\n", "", "", "one document", "of 100-400 tokens", "share");
  for (const auto type : types)
    for (const Shape& shape : {Shape{4, 9, 3, 2048, 64}, Shape{4, 16, 8, 2048, 128}})
      compare_documents(shape, type, repeats);
  fmt::print("\n{:>40} {:>9} {:>11}    GB/s {:>7}    GB/s\n", "", "", "reference", "adept");
  for (const auto type : types)
    for (const Sweep& sweep : sweeps(type)) compare(sweep, type, repeats);
}

}  // namespace
}  // namespace adept::bench

int main(int argc, char** argv) {
  int threads = adept::available_cores(), repeats = 11;
  std::string cases;
  CLI::App app("Attention and matrix products beside ATen's, the rest beside its plain references", "adept_ops_bench");
  app.add_option("--threads", threads)->capture_default_str()->check(CLI::Range(1, 1024));
  app.add_option("--repeats", repeats)->capture_default_str()->check(CLI::Range(1, 1024));
  const CLI::Option* chosen =
      app.add_option("--cases", cases,
                     "Time the test cases with matching names instead, compared with their references")
          ->type_name("PATTERN");
  return adept::bench::run(app, argc, argv, [&] {
    at::set_num_threads(threads);
    adept::nn::use_caching_allocator();
    if (chosen->empty()) {
      adept::bench::time_model_shapes(repeats);
    } else if (!adept::bench::time_cases(cases, repeats)) {
      throw adept::ConfigError(
          "--cases: found no case named \"{}\"; expected a pattern such as 'Attention*', 'Swiglu*' or '*'.", cases);
    }
  });
}
