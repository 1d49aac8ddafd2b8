// Runs a part of a step and measures its memory and time.
#pragma once

#include <ATen/core/Tensor.h>

#include "adept/core/function_ref.h"
#include "adept/train/trainable.h"

namespace adept::plan {

/// One pass: bytes above those before it, and seconds.
struct Pass {
  double kept = 0;           ///< by the graph, after the forward pass
  double forward_peak = 0;   ///< most at once in the forward pass
  double backward_peak = 0;  ///< likewise in the backward pass, with what is kept; 0: there is none
  double seconds = 0;        ///< of both
};

/// `forward` returns what the backward pass starts from; there is none if that needs no gradient. Drops the gradients
/// of `trainable` (may be null).
Pass run_pass(FunctionRef<at::Tensor()> forward, train::Trainable* trainable);

/// The last of two passes, the first of which makes the buffers that later ones find. With `is_timed`, the shortest
/// time of several.
Pass best_of(bool is_timed, FunctionRef<Pass()> run);

/// The seconds of the shortest of several calls.
double best_seconds(FunctionRef<void()> run);

}  // namespace adept::plan
