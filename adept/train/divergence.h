// Detects divergence before anything is saved or measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "adept/core/error.h"
#include "adept/model/batch.h"
#include "adept/model/frozen_prefix.h"
#include "adept/optim/adamw.h"
#include "adept/train/checkpoint.h"
#include "adept/train/step.h"

namespace adept::train {

/// Names the first trained tensor that is not finite, or its moments; empty if all are. Takes one pass over them.
std::string nonfinite_state(const optim::AdamW& optimizer);

/// Names what is not finite in a forward pass over a batch whose loss was finite before the last update: activations
/// (their sum of squares in fp32) or the loss; empty if all are.
std::string nonfinite_pass(const model::FrozenPrefix& model, const model::Batch& batch);

/// Watches one training.
class DivergenceCheck {
 public:
  /// `learning_rate` is the peak rate; run_dir contains the checkpoints.
  DivergenceCheck(double learning_rate, std::filesystem::path run_dir)
      : learning_rate_(learning_rate), run_dir_(std::move(run_dir)) {}

  /// Counts skipped updates in `state`. Throws NonFiniteError for the `most`-th in a row, and for the first one if the
  /// weights are the cause.
  void after_step(TrainerState& state, const StepResult& result, const model::Batch& batch, std::int64_t most,
                  const optim::AdamW& optimizer, const model::FrozenPrefix& model);

  /// Call before saving or measuring, on every rank: checks the state, and a pass over the last batch whose loss was
  /// finite. Throws NonFiniteError.
  void require_finite(std::int64_t step, const optim::AdamW& optimizer, const model::FrozenPrefix& model) const;

  /// The error: `what` is not finite after `step` steps. It names the last state before that and says what to do.
  NonFiniteError diverged(const std::string& what, std::int64_t step) const;

 private:
  double learning_rate_;
  std::filesystem::path run_dir_;
  std::optional<model::Batch> last_finite_batch_;
};

}  // namespace adept::train
