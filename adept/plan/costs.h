// Rehearsed costs of every layer and the head of a model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/plan/layout.h"
#include "adept/plan/narrow.h"
#include "adept/plan/rehearsal.h"

namespace adept::plan {

struct Costs {
  std::vector<PartCost> layers;
  PartCost head;         ///< as it trains
  PartCost frozen_head;  ///< as it is measured
};

/// How parts are rehearsed.
struct Rehearsed {
  bool is_timed = false;  ///< on the model itself, at the configured length; otherwise, because bytes grow evenly with
                          ///< the width, on a narrower model
  bool for_gpu = false;   ///< the head computes as on a GPU (PartCost of rehearse_head)
};

/// Rehearses each kind of layer, in each use, once.
class Rehearsals {
 public:
  /// Of layers of `base`, in the types of `layout`. `config` and `base` must outlive it.
  Rehearsals(const config::RunConfig& config, const model::ModelConfig& base, const Layout& layout,
             const Rehearsed& how);

  /// Of a layer like layer l of `model`, which has the base's layers.
  const PartCost& layer(const model::ModelConfig& model, std::size_t l, Use use, const Place& place = {});
  const PartCost& head(Use use);
  /// Of the model as it trains; the configuration differs at most in the layers that it copies.
  Costs of(const Layout& layout);

 private:
  PartCost rehearse(std::size_t kind, Use use, const Place& place) const;
  PartCost rehearse_head_of(Use use) const;
  RehearsalOptions options(const model::ModelConfig& model) const;

  const config::RunConfig& config_;
  const model::ModelConfig& base_;
  Rehearsed how_;
  at::ScalarType dtype_, stored_dtype_;
  Narrow narrow_;
  std::map<std::tuple<std::size_t, Use, Place>, PartCost> layers_;
  std::map<Use, PartCost> heads_;
};

/// The first layer of `model` that is like `layer`.
std::size_t kind_of(const model::ModelConfig& model, const model::Layer& layer);

}  // namespace adept::plan
