// What the steps of a session cost: time, beside the speed of light, and memory.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "adept/data/sequences.h"
#include "adept/model/decoder.h"
#include "adept/optim/adamw.h"
#include "adept/train/checkpoint.h"
#include "adept/train/memory.h"
#include "adept/train/step.h"
#include "adept/train/step_meter.h"
#include "adept/train/trainable.h"

namespace adept::train {

class StepAccount {
 public:
  /// What is referred to must outlive it. Measures how fast this machine multiplies, where that is not known yet.
  StepAccount(const model::Decoder& decoder, const Trainable& trainable, const optim::AdamW& optimizer);

  /// A step begins. One at a time.
  void begin();
  /// It ended: counts its time, tokens and operations in `state`. It read `cached` positions from the activation cache,
  /// whose file has `cache_bytes` now. After the first step of the session the memory is logged.
  void end(const StepResult& result, std::span<const data::Sequence> sequences,
           std::span<const model::Batch> micro_batches, std::int64_t cached, std::int64_t cache_bytes,
           TrainerState& state);

  const StepMeter& meter() const { return meter_; }
  /// Of the step that needed most; all zero before the first.
  const MemoryUse& memory() const { return memory_; }
  /// Before a step.
  MemoryUse resident() const { return resident_memory(decoder_, trainable_, optimizer_); }

 private:
  void measure_speed(std::span<const data::Sequence> sequences, std::span<const model::Batch> micro_batches,
                     std::int64_t cached, double seconds, TrainerState& state);

  const model::Decoder& decoder_;
  const Trainable& trainable_;
  const optim::AdamW& optimizer_;
  StepMeter meter_;
  bool rate_was_checked_ = false;  // measured again, as a step came close to it
  MemoryUse memory_;
  double began_ = 0;  // seconds
  std::optional<StepBytes> bytes_;
};

}  // namespace adept::train
