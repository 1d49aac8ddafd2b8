// The adept side of bench/run: one unit of work per line on stdin (`repeat`), timed; `end` answers with the peak
// memory. One JSON object per line on stdout: ready, then the answer to each line.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/core/version_info.h"
#include "adept/io/weight_files.h"
#include "adept/method/expansion.h"
#include "adept/model/batch.h"
#include "adept/model/decoder.h"
#include "adept/model/load.h"
#include "adept/nn/allocator.h"
#include "adept/nn/cross_entropy.h"
#include "adept/optim/adamw.h"
#include "adept/train/methods.h"
#include "adept/train/step.h"
#include "adept/train/trainable.h"
#include "bench/profile.h"

namespace adept::bench {
namespace {

constexpr double kLearningRate = 1e-4;  // as in peer_step.py
constexpr double kMaxGradNorm = 1.0;

struct Options {
  std::filesystem::path model;
  std::filesystem::path ids;
  std::string work = "forward";
  std::string dtype = "fp32";
  int threads = 1;
  int profile = 0;  ///< repeats
};

void say(const Json& line) { std::cout << line.dump() << std::endl; }

/// High-water mark of this process's resident memory, bytes; 0 where the system does not tell.
std::int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

/// (B, T) int64 from a JSON list of rows of equal length.
at::Tensor read_ids(const std::filesystem::path& path) {
  const auto rows = read_json(path).get<std::vector<std::vector<std::int64_t>>>();
  if (rows.empty() || rows[0].size() < 2) throw DataError("{}: expected rows of at least two token ids", path.string());
  std::vector<std::int64_t> flat;
  for (const auto& row : rows) {
    if (row.size() != rows[0].size()) throw DataError("{}: rows differ in length", path.string());
    flat.insert(flat.end(), row.begin(), row.end());
  }
  const auto num_rows = static_cast<std::int64_t>(rows.size());
  return at::from_blob(flat.data(), {num_rows, static_cast<std::int64_t>(rows[0].size())}, at::kLong).clone();
}

/// Every position predicts the next token; the last one of a row predicts nothing.
model::Batch next_token_batch(const at::Tensor& ids) {
  model::Batch batch{.input_ids = ids, .targets = ids.roll(-1, 1), .num_targets = ids.size(0) * (ids.size(1) - 1)};
  batch.targets.select(1, ids.size(1) - 1).fill_(nn::kIgnoreIndex);
  return batch;
}

/// The work of one repeat: forward and loss, or a training step on the copies of an expanded model.
class Work {
 public:
  explicit Work(const Options& options)
      : Work(options,
             model::load_model(options.model, {.dtype = options.dtype == "bf16" ? at::kBFloat16 : at::kFloat})) {}

  /// Returns the mean loss (before the update), nats per token.
  double once() {
    if (trainable_) {
      const train::StepResult result =
          train::train_step(decoder_, *trainable_, *optimizer_, {&batch_, 1}, rates_, kMaxGradNorm);
      if (!result.finite) throw NonFiniteError("the loss or a gradient is not finite");
      return result.loss;
    }
    const at::NoGradGuard no_grad;
    const at::Tensor loss = decoder_.loss_sum(decoder_.forward(batch_.input_ids), batch_.targets);
    return loss.item<double>() / static_cast<double>(batch_.num_targets);
  }

  std::int64_t num_tokens() const { return batch_.num_positions(); }
  std::int64_t num_trained() const { return trainable_ ? trainable_->num_parameters() : 0; }

 private:
  Work(const Options& options, model::LoadedModel loaded)
      : decoder_(std::move(loaded.config), std::move(loaded.weights)), batch_(next_token_batch(read_ids(options.ids))) {
    if (options.work != "step") return;
    const io::WeightFiles files = io::WeightFiles::open(options.model);
    trainable_ = std::make_unique<train::Trainable>(
        decoder_, train::expanded_tensors(decoder_, method::read_expansion(options.model), files));
    optimizer_ = std::make_unique<optim::AdamW>(trainable_->parameters(), optim::AdamWOptions{});
    std::map<std::string, double> rates;
    for (const optim::Parameter& parameter : trainable_->parameters()) rates[parameter.name] = kLearningRate;
    rates_ = optim::whole_rates(trainable_->parameters(), rates);
  }

  model::Decoder decoder_;
  model::Batch batch_;
  std::unique_ptr<train::Trainable> trainable_;
  std::unique_ptr<optim::AdamW> optimizer_;
  optim::ParameterRates rates_;
};

void serve(const Options& options) {
  at::set_num_threads(options.threads);
  nn::use_caching_allocator();
  Work work(options);
  if (options.profile > 0) {
    fmt::print("{}", profile([&] { work.once(); }, options.profile));
    return;
  }
  say({{"ready", true},
       {"tokens", work.num_tokens()},
       {"threads", at::get_num_threads()},
       {"trained", work.num_trained()},
       {"versions", {{"adept", kVersion}, {"commit", kCommit}, {"torch", kTorchVersion}, {"compiler", kCompiler}}}});
  for (std::string line; std::getline(std::cin, line);) {
    if (line != "repeat") break;
    const auto start = std::chrono::steady_clock::now();
    const double loss = work.once();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    say({{"seconds", seconds.count()}, {"loss", loss}});
  }
  say({{"peak_rss_bytes", peak_rss_bytes()}});
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app{"Timed work for bench/run: reads `repeat` and `end` from stdin", "adept_bench"};
  app.add_option("--model", options.model, "Model directory; for --work step an expanded one")->required();
  app.add_option("--ids", options.ids, "JSON file: rows of token ids of equal length")->required();
  app.add_option("--work", options.work, "What one repeat does")->check(CLI::IsMember({"forward", "step"}));
  app.add_option("--dtype", options.dtype, "Compute dtype")->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--threads", options.threads, "Threads")->check(CLI::PositiveNumber);
  app.add_option("--profile", options.profile, "Instead: so many repeats, and where their time goes")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    serve(options);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "adept_bench: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace adept::bench

int main(int argc, char** argv) { return adept::bench::run(argc, argv); }
