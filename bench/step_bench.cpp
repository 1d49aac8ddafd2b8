// The adept side of bench/run: one task per line on stdin (`repeat`), timed; `end` answers with the peak
// memory and, of steps, the rates that SOL and MFU refer to. One JSON object per line on stdout: ready, then the answer
// to each line.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/cpu.h"
#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/core/log.h"
#include "adept/core/process_memory.h"
#include "adept/core/progress.h"
#include "adept/core/version_info.h"
#include "adept/data/sequences.h"
#include "adept/data/token_dataset.h"
#include "adept/eval/evaluate.h"
#include "adept/io/weight_files.h"
#include "adept/kernels/instruction_set.h"
#include "adept/method/beyond/probe.h"
#include "adept/method/expansion.h"
#include "adept/model/activation_cache.h"
#include "adept/model/batch.h"
#include "adept/model/cost.h"
#include "adept/model/decoder.h"
#include "adept/model/frozen_prefix.h"
#include "adept/model/load.h"
#include "adept/nn/allocator.h"
#include "adept/nn/cross_entropy.h"
#include "adept/optim/adamw.h"
#include "adept/plan/machine.h"
#include "adept/train/matmul_rate.h"
#include "adept/train/memory.h"
#include "adept/train/methods.h"
#include "adept/train/step.h"
#include "adept/train/trainable.h"
#include "bench/profile.h"
#include "bench/program.h"

namespace adept::bench {
namespace {

constexpr double kLearningRate = 1e-4;  // as in peer_step.py
constexpr double kMaxGradNorm = 1.0;

struct Options {
  std::filesystem::path model;
  std::filesystem::path ids;
  std::string work = "forward";
  std::string dtype = "fp32", device = "cpu";
  std::string machine{};  ///< of adept plan; empty: unknown
  int threads = available_cores();
  bool cached = false;  ///< with an activation cache, which the first repeat fills
  std::string checkpointing = "none";
  int profile = 0;  ///< repeats

  model::LoadOptions load_options() const {
    return {.dtype = dtype == "bf16" ? at::kBFloat16 : at::kFloat, .device = device == "cuda" ? at::kCUDA : at::kCPU};
  }
};

void say(const Json& line) { std::cout << line.dump() << std::endl; }

/// (B, T) int64 from a JSON list of rows of equal length.
at::Tensor read_ids(const std::filesystem::path& path) {
  std::vector<std::vector<std::int64_t>> rows;
  try {
    rows = read_json(path).get<std::vector<std::vector<std::int64_t>>>();
  } catch (const Json::exception&) {
    throw DataError("{}: expected a list of rows of token ids", path.string());
  }
  if (rows.empty() || rows[0].size() < 2) throw DataError("{}: expected rows of at least two token ids", path.string());
  std::vector<std::int64_t> flat;
  for (const auto& row : rows) {
    if (row.size() != rows[0].size()) throw DataError("{}: rows differ in length", path.string());
    flat.insert(flat.end(), row.begin(), row.end());
  }
  const auto num_rows = static_cast<std::int64_t>(rows.size());
  return at::from_blob(flat.data(), {num_rows, static_cast<std::int64_t>(rows[0].size())}, at::kLong).clone();
}

void wait_for(at::Device device) {
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

/// Reads a byte of every page of the weights: a mapped file is then in memory, as the first pass over it would find it.
void read_pages(const model::Decoder& decoder) {
  if (!decoder.device().is_cpu()) return wait_for(decoder.device());
  constexpr std::size_t kPage = 4096;
  model::Weights weights = decoder.weights();
  unsigned char sum = 0;
  for (const model::Parameter& parameter : model::named_parameters(decoder.config(), weights)) {
    const auto* bytes = static_cast<const unsigned char*>(parameter.tensor->const_data_ptr());
    for (std::size_t i = 0; i < parameter.tensor->nbytes(); i += kPage) sum ^= bytes[i];
  }
  [[maybe_unused]] volatile unsigned char keep = sum;
}

/// Every position predicts the next token; the last one of a row predicts nothing.
model::Batch next_token_batch(const at::Tensor& ids, at::Device device) {
  at::Tensor targets = ids.roll(-1, 1);
  targets.select(1, ids.size(1) - 1).fill_(nn::kIgnoreIndex);
  return {.input_ids = {ids, device}, .targets = {targets, device}, .num_targets = ids.size(0) * (ids.size(1) - 1)};
}

/// The rows of `ids` (B, T) as documents of held-out text.
eval::EvalSet as_held_out(const at::Tensor& ids, std::int64_t vocab_size) {
  const at::Tensor narrow = ids.to(at::kInt).contiguous();
  std::vector<std::vector<std::int32_t>> rows;
  for (std::int64_t row = 0; row < ids.size(0); ++row) {
    const auto* first = narrow.const_data_ptr<std::int32_t>() + row * ids.size(1);
    rows.emplace_back(first, first + ids.size(1));
  }
  const std::vector<std::int64_t> bytes(rows.size());  // of no text
  const data::TokenDataset dataset({.name = "ids", .vocab_size = vocab_size}, rows, bytes);
  return {dataset.name(), data::windows(dataset, {.seq_len = ids.size(1)})};
}

/// The work of one repeat.
class Work {
 public:
  explicit Work(const Options& options) : Work(options, model::load_decoder(options.model, options.load_options())) {}

  /// Returns a loss that tells whether the other side did the same, nats per token: of a training step the one before
  /// the update, of a probe the mean over the model and the model without each layer.
  double once() {
    const double loss = trainable_ ? step() : options_.work == "probe" ? probe() : forward();
    wait_for(decoder_.device());
    peak_tensor_bytes_ = std::max(peak_tensor_bytes_, nn::tensor_memory(decoder_.device()).peak);
    return loss;
  }

  /// Throws DataError where a cache was asked for and never read.
  void check_cache() const {
    if (options_.cached && cache_->stats().positions_read == 0)
      throw DataError("nothing was read from the activation cache; the second epoch was not measured");
  }

  /// Of the process; on a GPU of the tensors there.
  std::int64_t peak_bytes() const { return decoder_.device().is_cpu() ? peak_rss_bytes() : peak_tensor_bytes_; }
  std::int64_t num_tokens() const { return batch_.num_positions(); }
  /// Of the last step.
  train::MemoryUse memory() const { return memory_; }
  /// What a step cannot do without, per second of a rate: operations of a token, and the rates of this machine.
  Json rates() const {
    const auto lowest = static_cast<std::int64_t>(trainable_->lowest_layer());
    const model::StepCost cost = model::step_cost(decoder_.weights(), lowest, batch_.input_ids.host.size(1));
    const bool reads_prefix = options_.cached;
    Json rates = {
        {"flops_per_token", cost.flops + (reads_prefix ? 0 : cost.prefix_flops)},
        {"matmul_rate", train::measure_matmul_rate(decoder_.dtype(), decoder_.device(), train::matmul_rate_file())}};
    if (options_.machine.empty()) return rates;
    const plan::Machine machine = plan::find_machine(options_.machine);
    rates["peak_rate"] = decoder_.dtype() == at::kFloat ? machine.matmul_flops_fp32 : machine.matmul_flops;
    return rates;
  }
  std::int64_t num_trained() const { return trainable_ ? trainable_->num_parameters() : 0; }

 private:
  Work(const Options& options, model::Decoder decoder)
      : options_(options),
        decoder_(std::move(decoder)),
        batch_(next_token_batch(read_ids(options.ids), decoder_.device())) {
    if (options.work == "forward") held_out_ = as_held_out(batch_.input_ids.host, decoder_.config().vocab_size);
    if (options.work == "step" || options.work == "full") train(io::WeightFiles::open(options.model));
    read_pages(decoder_);
    if (options.cached) use_cache();
    nn::reset_peak_tensor_memory(decoder_.device());  // loading does not count
  }

  void train(const io::WeightFiles& files) {
    config::RunConfig config;
    config.method = options_.work == "full" ? train::Method::kFull : train::Method::kAdept;
    std::optional<method::Expansion> expansion;
    if (config.expands()) expansion = method::read_expansion(options_.model);
    trainable_ =
        std::make_unique<train::Trainable>(decoder_, train::trained_tensors(config, decoder_, expansion, files));
    optimizer_ = std::make_unique<optim::AdamW>(trainable_->parameters(), optim::AdamWOptions{});
    for (const optim::Parameter& p : trainable_->parameters())
      rates_[p.name] = {{.dim = 0, .begin = 0, .end = p.master.size(0), .rate = kLearningRate}};
    checkpointing_ = config::from_string<train::ActivationCheckpointing>(options_.checkpointing).value();
  }

  void use_cache() {
    const std::filesystem::path path =
        std::filesystem::temp_directory_path() / fmt::format("adept-bench-{}", ::getpid());
    const model::ActivationSource source = {.fingerprint = "bench",
                                            .num_layers = trainable_->lowest_layer(),
                                            .hidden_size = decoder_.config().hidden_size,
                                            .dtype = decoder_.dtype()};
    cache_ = std::make_unique<model::ActivationCache>(path, std::int64_t{1} << 32, source);
    std::filesystem::remove(path);  // open, and gone with this process
  }

  double step() {
    const train::StepBytes step_bytes(decoder_.device());
    const model::FrozenPrefix model(decoder_, cache_.get(), /*keeps_new=*/true);
    const train::StepResult result =
        train::train_step(model, *trainable_, *optimizer_, {&batch_, 1}, rates_, kMaxGradNorm, checkpointing_);
    if (!result.finite) throw NonFiniteError("the loss or a gradient is not finite");
    memory_ =
        train::step_memory(train::resident_memory(decoder_, *trainable_, *optimizer_), result, 1, step_bytes.most());
    return result.loss;
  }

  double forward() { return eval::evaluate(decoder_, *held_out_, {.batch_size = batch_.rows()}).headline().value; }

  double probe() {
    const std::vector<std::vector<method::ProbeBatch>> parts = {{{.batch = batch_}}};
    const method::Importance importance = method::probe(decoder_, parts, {.num_lowest = 1}, Progress::silent()).front();
    double increases = 0;
    for (const method::LayerImportance& layer : importance.layers) increases += layer.score;
    return importance.baseline_loss + increases / static_cast<double>(importance.layers.size() + 1);
  }

  Options options_;
  model::Decoder decoder_;
  model::Batch batch_;
  std::optional<eval::EvalSet> held_out_;
  std::unique_ptr<model::ActivationCache> cache_;
  std::unique_ptr<train::Trainable> trainable_;
  std::unique_ptr<optim::AdamW> optimizer_;
  optim::ParameterRates rates_;
  train::MemoryUse memory_;
  std::int64_t peak_tensor_bytes_ = 0;
  train::ActivationCheckpointing checkpointing_ = train::ActivationCheckpointing::kNone;
};

void serve(const Options& options) {
  init_logging();  // standard output is for answers
  set_quiet();
  at::set_num_threads(options.threads);
  nn::use_caching_allocator();
  nn::use_expandable_segments();
  kernels::instruction_set();  // a wrong one is to be told now
  const auto before_loading = std::chrono::steady_clock::now();
  Work work(options);
  const std::chrono::duration<double> load_seconds = std::chrono::steady_clock::now() - before_loading;
  if (options.profile > 0) {
    fmt::print("{}", profile([&] { work.once(); }, options.profile));
    return;
  }
  say({{"ready", true},
       {"tokens", work.num_tokens()},
       {"threads", at::get_num_threads()},
       {"trained", work.num_trained()},
       {"load_seconds", load_seconds.count()},
       {"versions", {{"adept", kVersion}, {"commit", kCommit}, {"torch", kTorchVersion}, {"compiler", kCompiler}}}});
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "end") break;
    if (line != "repeat") throw DataError("stdin: found {}; expected repeat or end", line);
    const auto start = std::chrono::steady_clock::now();
    const double loss = work.once();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    say({{"seconds", seconds.count()}, {"loss", loss}});
  }
  work.check_cache();
  Json answer = {{"peak_bytes", work.peak_bytes()}};
  if (work.num_trained() > 0) {
    answer["memory_bytes"] = train::to_json(work.memory());
    answer.update(work.rates());
  }
  say(answer);
}

}  // namespace
}  // namespace adept::bench

int main(int argc, char** argv) {
  adept::bench::Options options;
  CLI::App app{"Timed work for bench/run: reads `repeat` and `end` from stdin", "adept_bench"};
  const auto print_cores = [] {
    fmt::print("{}\n", adept::available_cores());
    throw CLI::Success();
  };
  app.add_flag_callback("--cores", print_cores, "Only print the number of cores that this process may use")
      ->trigger_on_parse();
  app.add_option("--model", options.model, "Model directory; for --work step an expanded one")->required();
  app.add_option("--ids", options.ids, "JSON file: rows of token ids of equal length")->required();
  app.add_option("--work", options.work, "Work of one repeat")
      ->check(CLI::IsMember({"forward", "step", "full", "probe"}));
  app.add_flag("--cached", options.cached, "Steps with an activation cache, which the first repeat fills");
  app.add_option("--activation-checkpointing", options.checkpointing,
                 "Activation checkpointing of a step: none, selective or full")
      ->check(CLI::IsMember({"none", "selective", "full"}));
  app.add_option("--dtype", options.dtype, "Compute dtype")->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--device", options.device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--machine", options.machine, "Machine of `adept plan`, whose peak rate the answer to `end` then has");
  app.add_option("--threads", options.threads, "Number of threads; default: the cores that this process may use")
      ->check(CLI::Range(1, 1024));
  app.add_option("--profile", options.profile, "Run this many repeats and print a time profile instead")
      ->check(CLI::Range(1, 1000));
  return adept::bench::run(app, argc, argv, [&] {
    if (options.cached && options.work != "step")
      throw adept::ConfigError("--cached: found --work {}; expected --work step.", options.work);
    if (options.checkpointing != "none" && options.work != "step" && options.work != "full")
      throw adept::ConfigError("--activation-checkpointing: found --work {}; expected --work step or full.",
                               options.work);
    if (options.device == "cuda" && !at::hasCUDA())
      throw adept::ConfigError(
          "--device: found cuda, but this torch has no CUDA support or finds no GPU; expected cpu.");
    if (!options.machine.empty()) adept::plan::find_machine(options.machine);  // a wrong one is to be told now
    adept::bench::serve(options);
  });
}
