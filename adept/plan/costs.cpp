#include "adept/plan/costs.h"

#include <algorithm>

namespace adept::plan {
namespace {

constexpr std::int64_t kRehearsedTokens = 512;

}  // namespace

std::size_t kind_of(const model::ModelConfig& model, const model::Layer& layer) {
  std::size_t first = 0;
  while (model::difference(model.layers[first], layer)) ++first;
  return first;
}

Rehearsals::Rehearsals(const config::RunConfig& config, const model::ModelConfig& base, const Layout& layout,
                       const Rehearsed& how)
    : config_(config),
      base_(base),
      how_(how),
      dtype_(layout.dtype()),
      stored_dtype_(layout.stored_dtype()),
      narrow_(how.is_timed ? Narrow{.model = base} : narrowed(base)) {}

RehearsalOptions Rehearsals::options(const model::ModelConfig& model) const {
  // The time of attention depends on the length of a sequence; memory does not.
  const std::int64_t length = how_.is_timed ? config_.seq_len : std::min(config_.seq_len, kRehearsedTokens);
  return {.config = config_,
          .model = model,
          .dtype = dtype_,
          .stored_dtype = stored_dtype_,
          .rows = (kRehearsedTokens + length - 1) / length,
          .tokens = length,
          .is_timed = how_.is_timed,
          .for_gpu = how_.for_gpu};
}

const PartCost& Rehearsals::layer(const model::ModelConfig& model, std::size_t l, Use use, const Place& place) {
  const std::size_t kind = kind_of(base_, model.layers[l]);
  const std::tuple key(kind, use, place);
  auto found = layers_.find(key);
  if (found == layers_.end()) found = layers_.emplace(key, rehearse(kind, use, place)).first;
  return found->second;
}

PartCost Rehearsals::rehearse(std::size_t kind, Use use, const Place& place) const {
  PartCost cost = rehearse_layer(options(narrow_.model), kind, use, place);
  const auto factor = static_cast<double>(narrow_.factor);
  for (double* bytes : {&cost.kept, &cost.forward, &cost.backward}) *bytes *= factor;
  cost.fixed *= factor * factor;  // gradients and conversions of matrices
  return cost;
}

const PartCost& Rehearsals::head(Use use) {
  auto found = heads_.find(use);
  if (found == heads_.end()) found = heads_.emplace(use, rehearse_head_of(use)).first;
  return found->second;
}

// Bytes of the head are linear in the width: those of two narrow models tell those of a wide one.
PartCost Rehearsals::rehearse_head_of(Use use) const {
  if (narrow_.factor < 4) return rehearse_head(options(base_), use);
  const model::ModelConfig twice = narrow_by(base_, narrow_.factor / 2);
  const PartCost first = rehearse_head(options(narrow_.model), use), second = rehearse_head(options(twice), use);
  const auto at_width = [&](double one, double two) {
    return one + (two - one) * static_cast<double>(narrow_.factor - 1);
  };
  return {.kept = at_width(first.kept, second.kept),
          .forward = at_width(first.forward, second.forward),
          .backward = at_width(first.backward, second.backward),
          .fixed = at_width(first.fixed, second.fixed),
          .chunk = at_width(first.chunk, second.chunk)};
}

Costs Rehearsals::of(const Layout& layout) {
  const model::ModelConfig& model = layout.decoder().config();
  Costs costs;
  bool is_below_graph = true;
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    const Use use = layout.use(static_cast<std::int64_t>(l));
    const bool is_lowest = is_below_graph && use != Use::kWithoutGraph;
    const Place place = {.is_lowest = is_lowest,
                         .input_has_graph = !is_lowest || layout.trainable().lowest_of_any_graph() == 0};
    is_below_graph = is_below_graph && !is_lowest;
    costs.layers.push_back(layer(model, l, use, place));
  }
  const bool trains_head = layout.decoder().weights().lm_head.weight.requires_grad();
  costs.frozen_head = head(Use::kFrozen);
  costs.head = trains_head ? head(Use::kTrained) : costs.frozen_head;
  return costs;
}

}  // namespace adept::plan
