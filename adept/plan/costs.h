// Rehearsed costs of every layer and the head of a model.
#pragma once

#include <cstddef>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/plan/layout.h"
#include "adept/plan/rehearsal.h"

namespace adept::plan {

struct Costs {
  std::vector<PartCost> layers;
  PartCost head;         ///< as it trains
  PartCost frozen_head;  ///< as it is measured
};

/// Each kind of layer is rehearsed once. With `is_timed`, on the model itself at the configured length; otherwise,
/// because bytes grow evenly with the width, on a narrower model.
Costs rehearse(const config::RunConfig& config, const Layout& layout, bool is_timed);

/// The first layer of `model` that is like layer l.
std::size_t kind_of(const model::ModelConfig& model, std::size_t l);

}  // namespace adept::plan
