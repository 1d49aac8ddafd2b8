// Accounts for the time (relative to the speed of light) and memory of a session's steps.
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
  /// Referenced objects must outlive it. Measures the rate of matrix products if it is unknown.
  StepAccount(const model::Decoder& decoder, const Trainable& trainable, const optim::AdamW& optimizer);

  /// Starts a step. Only one at a time.
  void begin();
  /// Ends the step: adds its time, tokens and operations to `state`. `cached`: positions read from the activation
  /// cache; `cache_bytes`: size of its file; `waited`: seconds until the sequences were there. Logs the memory after
  /// the first step of the session.
  void end(const StepResult& result, std::span<const data::Sequence> sequences,
           std::span<const model::Batch> micro_batches, std::int64_t cached, std::int64_t cache_bytes, double waited,
           TrainerState& state);

  const StepMeter& meter() const { return meter_; }
  /// The share of this session's steps that was spent waiting for data, 0 to 1.
  double data_wait() const { return seconds_ > 0 ? waited_ / seconds_ : 0; }
  /// Memory of the step with the highest peak; zero before the first.
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
  bool rate_was_checked_ = false;  // measured again, because a step came close to it
  MemoryUse memory_;
  double began_ = 0;  // seconds, as are:
  double seconds_ = 0, waited_ = 0;
  std::optional<StepBytes> bytes_;
};

}  // namespace adept::train
