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
  std::int64_t positions = 0;  // padding is also computed
  for (const model::Batch& batch : micro_batches) positions += batch.num_positions();
  const double computed = 1 - static_cast<double>(cached) / static_cast<double>(positions);
  std::int64_t tokens = 0;
  double flops = 0;
  for (const data::Sequence& sequence : sequences) {
    for (const std::int64_t length : data::document_lengths(sequence)) {
      const model::StepCost cost = model::step_cost(decoder_.weights(), trainable_.lowest_layer(), length);
      flops += static_cast<double>(length) * (cost.flops + computed * cost.prefix_flops);
    }
    tokens += std::ssize(sequence.tokens);
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
