#include "adept/train/divergence.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <limits>

#include "adept/core/log.h"
#include "adept/dist/process_group.h"
#include "adept/nn/square_sum.h"

namespace adept::train {
namespace {

// In fp64 the squares of finite fp32 numbers are finite.
bool is_finite(const at::Tensor& tensor) { return std::isfinite(nn::square_sum({tensor.detach()}).item<double>()); }

}  // namespace

std::string nonfinite_state(const optim::AdamW& optimizer) {
  const at::NoGradGuard no_grad;
  for (const optim::Parameter& p : optimizer.parameters()) {
    if (!is_finite(p.master)) return p.name;
    const optim::Moments& moments = optimizer.moments().at(p.name);
    if (!is_finite(moments.exp_avg) || !is_finite(moments.exp_avg_sq)) return "the optimizer's moments of " + p.name;
  }
  return "";
}

std::string nonfinite_pass(const model::FrozenPrefix& model, const model::Batch& batch) {
  const at::NoGradGuard no_grad;
  const model::Decoder& decoder = model.decoder();
  const at::Tensor h = model.hidden(batch.input_ids, decoder.num_layers(), batch.context());
  // A norm whose squares overflow outputs zeros, which give a finite loss.
  if (!(nn::square_sum({h}).item<double>() <= std::numeric_limits<float>::max())) return "the output of the last layer";
  const bool finite = std::isfinite(decoder.loss_sum(h, batch.targets).item<double>());
  return finite ? "" : "the loss on text that had a finite loss before the last update";
}

void DivergenceCheck::after_step(TrainerState& state, const StepResult& result, const model::Batch& batch,
                                 std::int64_t most, const optim::AdamW& optimizer, const model::FrozenPrefix& model) {
  if (result.finite) {
    last_finite_batch_ = batch;
    state.nonfinite_in_row = 0;
    return;
  }
  ++state.nonfinite_in_row;
  ++state.nonfinite_total;
  if (state.nonfinite_in_row == 1) require_finite(state.step, optimizer, model);  // the weights may be the cause
  log_warning("step {}: loss {}, gradient norm {}: not finite; the update is skipped ({} in a row)", state.step,
              result.loss, result.grad_norm, state.nonfinite_in_row);
  if (state.nonfinite_in_row < most) return;
  throw NonFiniteError(
      fmt::format("{} consecutive steps up to step {} had a non-finite loss or gradient (train.max_nonfinite_steps), "
                  "so their updates were skipped. The last state before them is {}. Check the data, or start again in "
                  "another output_dir with a lower train.learning_rate.",
                  state.nonfinite_in_row, state.step, last_state(run_dir_, state.step - state.nonfinite_in_row)));
}

void DivergenceCheck::require_finite(std::int64_t step, const optim::AdamW& optimizer,
                                     const model::FrozenPrefix& model) const {
  const auto expect_nothing = [&](const std::string& found) {
    for (const std::string& what : dist::world().all_gather(found))
      if (!what.empty()) throw diverged(what, step);
  };
  // Each rank has its rows of the moments. All ranks know what they found before they pass through layers together.
  expect_nothing(nonfinite_state(optimizer));
  if (last_finite_batch_) expect_nothing(nonfinite_pass(model, *last_finite_batch_));
}

NonFiniteError DivergenceCheck::diverged(const std::string& what, std::int64_t step) const {
  return NonFiniteError(
      fmt::format("the training diverged: after step {}, {} is not finite (train.learning_rate is {:g}). The last "
                  "state before that step is {}. Start again in another output_dir with a lower train.learning_rate.",
                  step, what, learning_rate_, last_state(run_dir_, step - 1)));
}

}  // namespace adept::train
