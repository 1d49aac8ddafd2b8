#include "adept/train/step_account.h"

#include <chrono>

#include "adept/core/log.h"
#include "adept/model/cost.h"
#include "adept/train/matmul_rate.h"

namespace adept::train {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

StepAccount::StepAccount(const model::Decoder& decoder, const Trainable& trainable, const optim::AdamW& optimizer)
    : decoder_(decoder),
      trainable_(trainable),
      optimizer_(optimizer),
      meter_(matmul_rate(decoder.dtype(), decoder.device(), matmul_rate_file())) {}

void StepAccount::begin() {
  began_ = steady_seconds();
  bytes_.emplace(decoder_.device());
}

void StepAccount::end(const StepResult& result, std::span<const data::Sequence> sequences,
                      std::span<const model::Batch> micro_batches, std::int64_t cached, std::int64_t cache_bytes,
                      double waited, TrainerState& state) {
  const MemoryUse memory = step_memory(resident(), result, std::ssize(micro_batches), bytes_->most());
  const bool is_first = memory_.peak == 0;
  if (memory.peak > memory_.peak) memory_ = memory;
  memory_.cache = cache_bytes;  // it grows from step to step
  if (is_first) log_info("peak memory of the first step: {}", describe(memory_));
  const double seconds = steady_seconds() - began_;
  seconds_ += seconds;
  waited_ += waited;
  measure_speed(sequences, micro_batches, cached, seconds, state);
}

void StepAccount::measure_speed(std::span<const data::Sequence> sequences, std::span<const model::Batch> micro_batches,
                                std::int64_t cached, double seconds, TrainerState& state) {
  const nn::Embedding& embedding = decoder_.weights().embed_tokens;
  std::vector<bool> trains_a_token;  // of each micro-batch: then it is computed from the embeddings
  std::int64_t cacheable = 0;        // positions of the others; padding is also computed
  const auto is_own = [rank = dist::world().rank(), size = dist::world().size()](std::size_t micro_batch) {
    return static_cast<int>(micro_batch % static_cast<std::size_t>(size)) == rank;
  };
  for (const model::Batch& batch : micro_batches) {
    trains_a_token.push_back(embedding.trains_any_of(batch.input_ids));
    if (!trains_a_token.back() && is_own(trains_a_token.size() - 1)) cacheable += batch.num_positions();
  }
  const double computed = cacheable == 0 ? 1 : 1 - static_cast<double>(cached) / static_cast<double>(cacheable);
  std::int64_t tokens = 0;
  double flops = 0;
  auto sequence = sequences.begin();
  for (std::size_t b = 0; b < micro_batches.size(); ++b) {
    for (std::int64_t row = 0; row < micro_batches[b].rows(); ++row, ++sequence) {
      const bool trains = trains_a_token[b] && embedding.trains_any_of(micro_batches[b].input_ids.host[row]);
      for (const std::int64_t length : is_own(b) ? data::document_lengths(*sequence) : std::vector<std::int64_t>()) {
        const model::StepCost cost = model::step_cost(decoder_.weights(), trainable_.lowest_layer(), length, trains);
        const double of_prefix = trains_a_token[b] ? 1 : computed;
        flops += static_cast<double>(length) * (cost.flops + of_prefix * cost.prefix_flops);
      }
      tokens += std::ssize(sequence->tokens);
    }
  }
  state.total_tokens += tokens;
  state.train_seconds += seconds;
  state.necessary_flops += flops;
  const double rate_before = meter_.matmul_rate();
  meter_.add(seconds, tokens, flops);
  if (meter_.matmul_rate() > rate_before)
    keep_matmul_rate(meter_.matmul_rate(), decoder_.dtype(), decoder_.device(), matmul_rate_file());
  if (meter_.speed_of_light() > StepMeter::kDoubtful && !rate_was_checked_) {
    rate_was_checked_ = true;
    meter_.raise_rate(measure_matmul_rate(decoder_.dtype(), decoder_.device(), matmul_rate_file()));
  }
}

}  // namespace adept::train
