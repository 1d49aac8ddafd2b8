// A training that diverged: found before anything of it is saved.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "adept/core/error.h"
#include "adept/model/batch.h"
#include "adept/model/frozen_prefix.h"
#include "adept/optim/adamw.h"

namespace adept::train {

/// What of a trained model is not finite, for a message: a tensor, its moments, or, with a batch whose loss was finite
/// before the last update, activations (their sum of squares in fp32) or loss; empty if all is. One pass over what
/// trains and, with `batch`, a forward pass.
std::string find_nonfinite(const optim::AdamW& optimizer, const model::FrozenPrefix& model, const model::Batch* batch);

/// The error: `what` is not finite after `step` steps at the peak rate `learning_rate`. It names the last state before
/// in run_dir and says what to do.
NonFiniteError diverged(const std::string& what, std::int64_t step, double learning_rate,
                        const std::filesystem::path& run_dir);

}  // namespace adept::train
