#include "adept/run/model_context.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "adept/core/cpu.h"
#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/data/chat_template.h"
#include "adept/data/tokenizer/special_tokens.h"
#include "adept/dist/process_group.h"
#include "adept/io/hub.h"
#include "adept/io/text_quote.h"
#include "adept/io/weight_files.h"
#include "adept/kernels/instruction_set.h"
#include "adept/nn/allocator.h"
#include "adept/nn/kernels.h"

namespace adept::run {

data::TextEncoder TextModel::encoder(const data::TextSource& source) const {
  data::TextEncoder encoder = source.messages_field ? data::make_chat_encoder(tokenizer, config.vocab_size,
                                                                              data::ChatTemplate::from_model_dir(dir))
                                                    : data::make_text_encoder(tokenizer, config.vocab_size);
  encoder.eos = data::find_eos(dir, tokenizer);  // an error only where it is used: eos()
  if (encoder.eos && *encoder.eos >= config.vocab_size) encoder.eos.reset();
  encoder.end_tokens = data::find_end_tokens(dir);
  return encoder;
}

std::int32_t TextModel::eos() const {
  const std::optional<std::int32_t> id = data::load_special_token(dir, tokenizer, "eos");
  if (!id)
    throw DataError("{}: has no EOS token; expected eos_token in tokenizer_config.json, to separate documents.",
                    dir.string());
  if (*id >= config.vocab_size) {
    const std::string token = tokenizer.id_to_token(*id).value_or("");
    const bool is_listed = data::Tokenizer::from_file(dir / "tokenizer.json").token_to_id(token).has_value();
    throw DataError(
        "{}: eos_token is {}{}: it has the id {}, but the model's vocabulary has {} ids; the tokenizer and the model "
        "do not match.",
        dir.string(), io::quote(token), is_listed ? "" : ", which tokenizer.json does not have", *id,
        config.vocab_size);
  }
  return *id;
}

TextModel load_text_model(const std::string& directory_or_hub_id) {
  const std::filesystem::path dir = io::resolve_model(directory_or_hub_id);
  model::ModelConfig config = model::read_model_config(dir);
  data::Tokenizer tokenizer = data::Tokenizer::from_model_dir(dir);
  return {.dir = dir, .config = std::move(config), .tokenizer = std::move(tokenizer)};
}

void warn_of_long_sequences(const model::ModelConfig& config, const std::filesystem::path& dir, const std::string& what,
                            std::int64_t length) {
  const Json limit = config.source.value("max_position_embeddings", Json());
  if (limit.is_number_integer() && length > limit.get<std::int64_t>())
    log_common_warning("{} {} exceeds max_position_embeddings {} of {}; quality may degrade", what, length,
                       limit.get<std::int64_t>(), dir.string());
}

void warn_of_long_sequences(const TextModel& model, std::int64_t seq_len) {
  warn_of_long_sequences(model.config, model.dir, "seq_len", seq_len);
}

namespace {

// Checks the GPU's generation through convolution support: from Ampere on, tensor cores multiply bf16.
bool gpu_multiplies_bf16() {
  return at::hasCUDA() && at::detail::getCUDAHooks().supportsBFloat16ConvolutionWithCuDNNv8();
}

void decide_dtype(config::Compute& compute) {
  const bool on_gpu = compute.device == config::Device::kCuda;
  const bool native = on_gpu ? gpu_multiplies_bf16() : kernels::multiplies_bf16();
  compute.dtype = native ? config::DTypeChoice::kBf16 : config::DTypeChoice::kFp32;
  log_info("dtype: {} (auto: {} {} bf16 natively)", config::to_string(compute.dtype),
           on_gpu ? "this GPU" : "this processor", native ? "multiplies" : "does not multiply");
}

std::ptrdiff_t num_threads_of_process() {
  std::error_code error;
  const std::filesystem::directory_iterator threads("/proc/self/task", error), end;
  return std::distance(threads, end);
}

/// The system counts a joined thread against its limits until it is gone from /proc.
void wait_until_gone(std::ptrdiff_t num_before) {
  constexpr std::chrono::milliseconds kInterval(1);
  constexpr int kMaxIntervals = 1000;
  for (int i = 0; i < kMaxIntervals && num_threads_of_process() > num_before; ++i)
    std::this_thread::sleep_for(kInterval);
}

/// The number of additional threads that the system can start, at most `wanted`; they wait for each other, then end.
int count_startable(int wanted) {
  const std::ptrdiff_t num_before = num_threads_of_process();
  std::mutex until_counted;
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(until_counted);
    try {
      while (std::ssize(threads) < wanted) threads.emplace_back([&] { const std::lock_guard wait(until_counted); });
    } catch (const std::system_error&) {  // expected: the limit is what we look for
    }
  }
  for (std::thread& thread : threads) thread.join();
  wait_until_gone(num_before);
  return static_cast<int>(threads.size());
}

/// OpenMP ends the process if it gets fewer threads than requested, so the available number is tested first. OpenMP
/// keeps the threads that it starts here.
void start_threads(int wanted) {
  // One team of OpenMP; as many for the pool of XNNPACK, which at::set_num_threads starts; and two teams in reserve:
  // where oneDNN wants a smaller team, OpenMP ends the threads left over and starts others at once, and on a busy
  // machine the system still counts the old ones.
  constexpr int kPools = 4;
  constexpr int kOthers = 1;  // autograd's
  const int startable = count_startable(kPools * (wanted - 1) + kOthers);
  const int threads = 1 + std::max(0, startable - kOthers) / kPools;
  if (threads < wanted)
    log_warning(
        "only {} of {} threads can be started; continuing with these. Check the limit on processes (ulimit -u, or the "
        "pids limit of a container).",
        threads, wanted);
  at::set_num_threads(threads);
  at::parallel_for(0, at::get_num_threads(), 1, [](std::int64_t, std::int64_t) {});
}

}  // namespace

void init_compute(config::Compute& compute) {
  const auto& [dtype, device, threads, wanted_kernels] = compute;
  const int cores = std::max(1, available_cores() / dist::world().launch().cores_shared_by);
  if (threads > cores)
    log_warning("threads: {} is more than the {} cores that this process may use, so threads will wait for each other",
                threads, cores);
  start_threads(threads > 0 ? static_cast<int>(threads) : cores);
  nn::set_kernels(wanted_kernels);
  kernels::instruction_set();  // throws now if the variable is invalid
  nn::use_caching_allocator();
  if (device == config::Device::kCuda && !at::hasCUDA())
    throw ConfigError(
        "device: found cuda, but this torch has no CUDA support or finds no GPU; expected cpu, or a build with a CUDA "
        "torch.");
  if (device == config::Device::kCuda) nn::use_expandable_segments();
  if (dtype == config::DTypeChoice::kAuto) decide_dtype(compute);
  if (device == config::Device::kCpu && dtype == config::DTypeChoice::kBf16 && !cpu_has_native_bf16())
    log_warning(
        "this processor ({}) has no bf16 instructions, so fp32 is faster and more accurate; bf16 needs less memory",
        cpu_model_name());
}

int threads_while_others_wait() {
  return std::max(at::get_num_threads(),
                  std::min(available_cores(), at::get_num_threads() * dist::world().launch().cores_shared_by));
}

void init_compute_to_measure(config::Compute& compute, const std::filesystem::path& model_dir) {
  const io::WeightFiles files = io::WeightFiles::open(model_dir);
  const std::vector<std::string> names = files.names();
  const bool is_wide = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    const io::TensorView& tensor = files.at(name);
    return tensor.shape.size() > 1 && (tensor.dtype == DType::kF32 || tensor.dtype == DType::kF64);
  });
  if (compute.dtype == config::DTypeChoice::kAuto && is_wide) {
    compute.dtype = config::DTypeChoice::kFp32;
    log_info("dtype: fp32 (auto: the weights of {} are fp32, which bf16 would round)", model_dir.string());
  }
  init_compute(compute);
}

}  // namespace adept::run
