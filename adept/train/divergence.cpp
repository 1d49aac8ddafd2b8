#include "adept/train/divergence.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <limits>

#include "adept/nn/square_sum.h"
#include "adept/train/checkpoint.h"

namespace adept::train {
namespace {

// In fp64 the squares of finite fp32 numbers are finite.
bool is_finite(const at::Tensor& tensor) { return std::isfinite(nn::square_sum({tensor.detach()})); }

}  // namespace

std::string find_nonfinite(const optim::AdamW& optimizer, const model::FrozenPrefix& model, const model::Batch* batch) {
  const at::NoGradGuard no_grad;
  for (const optim::Parameter& p : optimizer.parameters()) {
    if (!is_finite(p.master)) return p.name;
    const optim::Moments& moments = optimizer.moments().at(p.name);
    if (!is_finite(moments.exp_avg) || !is_finite(moments.exp_avg_sq)) return "the optimizer's moments of " + p.name;
  }
  if (batch == nullptr) return "";
  const model::Decoder& decoder = model.decoder();
  const at::Tensor h = model.hidden(batch->input_ids, decoder.num_layers(), batch->context());
  // A norm whose squares overflow makes zeros of everything, and a finite loss of these.
  if (!(nn::square_sum({h}) <= std::numeric_limits<float>::max())) return "the output of the last layer";
  const bool finite = std::isfinite(decoder.loss_sum(h, batch->targets).item<double>());
  return finite ? "" : "the loss on text of which it was finite before the last update";
}

NonFiniteError diverged(const std::string& what, std::int64_t step, double learning_rate,
                        const std::filesystem::path& run_dir) {
  return NonFiniteError(fmt::format(
      "the training diverged: after step {}, {} is not finite (train.learning_rate is {:g}). The last state "
      "before that step is {}. Start anew in another output_dir with a lower train.learning_rate.",
      step, what, learning_rate, last_state(run_dir, step - 1)));
}

}  // namespace adept::train
