// A program for the parity tests: runs a model directory on given ids and dumps what came out.
//
//   decoder_tool MODEL_DIR INPUT OUTPUT [--device cpu|cuda] [--dtype fp32|bf16] [--gradients] [--generate N
//   [--no-cache]]
//                [--save DIR] [--bypass 1,3] [--time N]
//
// INPUT is a safetensors file with ids (B, T) and targets (B, T), both I64, and perhaps document_starts (B, T), I32, as
// in model::Context. OUTPUT gets logits (B, T, V), token_losses
// (B, T), loss_sum, with --gradients "grad.<parameter>" of every parameter, with --generate "generated" for row 0.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <deque>
#include <functional>

#include "adept/core/error.h"
#include "adept/io/safetensors.h"
#include "adept/model/decoder.h"
#include "adept/model/generate.h"
#include "adept/model/load.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "tests/support/forward_without.h"
#include "tests/support/save_model.h"

namespace adept {
namespace {

struct Arguments {
  std::string model, input, output, save;
  std::string device = "cpu", dtype = "fp32";
  bool gradients = false, no_cache = false;
  std::int64_t generate = 0, time = 0;
  std::vector<int> bypass;
};

/// Tensors under names, kept until they are written.
class Dump {
 public:
  void add(const std::string& name, const at::Tensor& tensor) {
    kept_.push_back(tensor.detach().to(at::kCPU).contiguous());
    views_.push_back(model::as_view(name, kept_.back()));
  }
  void write(const std::string& path) const { io::write_safetensors(path, views_); }

 private:
  std::deque<at::Tensor> kept_;
  std::vector<io::TensorView> views_;
};

at::Tensor read_input(const io::SafetensorsFile& file, const char* name) {
  const io::TensorView* view = file.find(name);
  ADEPT_CHECK(view != nullptr, "the input has no {}", name);
  return model::as_tensor(*view, nullptr).clone();
}

/// Seconds of wall clock and of processor time, the least of several runs.
struct Times {
  double wall = 1e9, cpu = 1e9;

  void add(const std::function<void()>& action) {
    const auto begin = std::chrono::steady_clock::now();
    const std::clock_t cpu_begin = std::clock();
    action();
    wall = std::min(wall, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    cpu = std::min(cpu, static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC);
  }
};

void print_times(const model::Decoder& decoder, const nn::TokenIds& ids, const nn::Targets& targets,
                 std::int64_t count) {
  Times forward, both;
  for (std::int64_t i = 0; i < count; ++i) {
    forward.add([&] {
      const at::NoGradGuard no_grad;
      decoder.token_losses(decoder.forward(ids, {}), targets);
    });
    both.add([&] {
      const at::Tensor loss = decoder.loss_sum(decoder.forward(ids, {}), targets);
      if (loss.requires_grad()) loss.backward();
    });
  }
  fmt::print("threads {}: forward {:.3f} s (cpu {:.3f}), forward and backward {:.3f} s (cpu {:.3f})\n",
             at::get_num_threads(), forward.wall, forward.cpu, both.wall, both.cpu);
}

void run(const Arguments& arguments) {
  const auto compute = compute_dtype_from_string(arguments.dtype);
  ADEPT_CHECK(compute.has_value(), "dtype {}", arguments.dtype);
  const at::Device device(arguments.device);
  model::Decoder decoder = model::load_decoder(
      arguments.model,
      {.dtype = model::to_scalar_type(*compute), .device = device, .widen_matrices = arguments.gradients});
  if (!arguments.save.empty()) {
    const auto files = io::WeightFiles::open(arguments.model);
    test::SaveOptions options;
    options.source = &files;
    std::filesystem::create_directories(arguments.save);
    test::save_model(arguments.save, decoder.config(), decoder.weights(), options);
  }
  const auto input = io::SafetensorsFile::open(arguments.input);
  const nn::TokenIds ids(read_input(*input, "ids"), device);
  const nn::Targets targets(read_input(*input, "targets"), device);
  model::Context context;
  if (input->find("document_starts") != nullptr) context.document_starts = read_input(*input, "document_starts");

  std::vector<model::Parameter> parameters = model::named_parameters(decoder.config(), decoder.weights());
  if (arguments.gradients) {
    for (const auto& parameter : parameters) parameter.tensor->requires_grad_();
    decoder.weights().lm_head.weight.requires_grad_();  // another handle of the embeddings when they are tied
  }
  if (arguments.time > 0) return print_times(decoder, ids, targets, arguments.time);
  Dump dump;
  const at::Tensor h = test::forward_without(arguments.bypass, decoder, ids, context);
  {
    const at::NoGradGuard no_grad;
    dump.add("logits", decoder.logits(h));
    dump.add("token_losses", decoder.token_losses(h, targets));
  }
  const at::Tensor loss = decoder.loss_sum(h, targets);
  dump.add("loss_sum", loss);
  if (arguments.gradients) {
    loss.backward();
    for (const auto& parameter : parameters) dump.add("grad." + parameter.name, parameter.tensor->grad());
  }
  if (arguments.generate > 0) {
    const at::Tensor prompt = ids.host[0].contiguous();
    model::GenerateOptions options;
    options.max_new_tokens = arguments.generate;
    options.use_cache = !arguments.no_cache;
    options.eos_token_ids = decoder.config().eos_token_ids;
    const auto tokens = model::generate(
        decoder, {prompt.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(prompt.numel())}, options);
    dump.add("generated", at::tensor(tokens, at::kLong));
  }
  dump.write(arguments.output);
}

}  // namespace
}  // namespace adept

int main(int argc, char** argv) {
  adept::Arguments arguments;
  CLI::App app{"decoder_tool"};
  app.add_option("model", arguments.model)->required();
  app.add_option("input", arguments.input)->required();
  app.add_option("output", arguments.output)->required();
  app.add_option("--device", arguments.device);
  app.add_option("--dtype", arguments.dtype);
  app.add_flag("--gradients", arguments.gradients);
  app.add_option("--generate", arguments.generate);
  app.add_flag("--no-cache", arguments.no_cache);
  app.add_option("--save", arguments.save);
  app.add_option("--bypass", arguments.bypass)->delimiter(',');
  app.add_option("--time", arguments.time);
  CLI11_PARSE(app, argc, argv);
  try {
    adept::run(arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
