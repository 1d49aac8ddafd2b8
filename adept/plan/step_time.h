// The time of a step, and what ranks send to each other in it.
#pragma once

#include "adept/config/run_config.h"
#include "adept/plan/costs.h"
#include "adept/plan/layout.h"
#include "adept/plan/machine.h"

namespace adept::plan {

/// Bytes that a rank sends in a step.
struct Traffic {
  double reduced = 0;   ///< gradients and updated weights
  double gathered = 0;  ///< divided layers (dist.shard_base)
};

/// Seconds of a step.
struct StepTime {
  double layers = 0;  ///< forward and backward pass of all layers
  double head = 0;    ///< final norm, head and loss
  double update = 0;  ///< clipping and optimizer
  /// Between ranks, beside the rest: all of it for gradients and weights, as if nothing overlapped; of the gathering of
  /// divided layers, which goes on while the layers are computed, what takes longer than these.
  double communication = 0;
  double total() const { return layers + head + update + communication; }
};

Traffic traffic_of(const Layout& layout, const config::RunConfig& config);

/// Necessary operations of one rank in a step.
double necessary_flops(const Layout& layout, const config::RunConfig& config);

/// On this machine from rehearsed times, for another from its rates.
StepTime time_of(const Layout& layout, const config::RunConfig& config, const Costs& costs, const Machine& machine);

}  // namespace adept::plan
