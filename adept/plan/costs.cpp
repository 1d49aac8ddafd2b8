#include "adept/plan/costs.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <tuple>

#include "adept/plan/narrow.h"

namespace adept::plan {
namespace {

constexpr std::int64_t kRehearsedTokens = 512;

RehearsalOptions with_model(const RehearsalOptions& options, const model::ModelConfig& model) {
  return {.config = options.config,
          .model = model,
          .dtype = options.dtype,
          .stored_dtype = options.stored_dtype,
          .rows = options.rows,
          .tokens = options.tokens,
          .is_timed = options.is_timed};
}

PartCost wide_layer(const RehearsalOptions& options, std::int64_t narrow_factor, std::size_t layer, Use use,
                    const Place& place) {
  PartCost cost = rehearse_layer(options, layer, use, place);
  const auto factor = static_cast<double>(narrow_factor);
  for (double* bytes : {&cost.kept, &cost.forward, &cost.backward}) *bytes *= factor;
  cost.fixed *= factor * factor;  // gradients and conversions of matrices
  return cost;
}

// Bytes of the head are linear in the width: those of two narrow models tell those of a wide one.
PartCost wide_head(const RehearsalOptions& options, std::int64_t narrow_factor, const model::ModelConfig& model,
                   Use use) {
  if (narrow_factor < 4) return rehearse_head(with_model(options, model), use);
  const model::ModelConfig twice = narrow_by(model, narrow_factor / 2);
  const PartCost first = rehearse_head(options, use), second = rehearse_head(with_model(options, twice), use);
  const auto at_width = [&](double one, double two) {
    return one + (two - one) * static_cast<double>(narrow_factor - 1);
  };
  return {.kept = at_width(first.kept, second.kept),
          .forward = at_width(first.forward, second.forward),
          .backward = at_width(first.backward, second.backward),
          .fixed = at_width(first.fixed, second.fixed),
          .chunk = at_width(first.chunk, second.chunk)};
}

}  // namespace

std::size_t kind_of(const model::ModelConfig& model, std::size_t l) {
  std::size_t first = 0;
  while (model::difference(model.layers[first], model.layers[l])) ++first;
  return first;
}

Costs rehearse(const config::RunConfig& config, const Layout& layout, bool is_timed) {
  const model::ModelConfig& model = layout.decoder().config();
  // The time of attention depends on the length of a sequence; memory does not.
  const std::int64_t length = is_timed ? config.seq_len : std::min(config.seq_len, kRehearsedTokens);
  const Narrow narrow = is_timed ? Narrow{.model = model} : narrowed(model);
  const RehearsalOptions options{.config = config,
                                 .model = narrow.model,
                                 .dtype = layout.dtype(),
                                 .stored_dtype = layout.stored_dtype(),
                                 .rows = (kRehearsedTokens + length - 1) / length,
                                 .tokens = length,
                                 .is_timed = is_timed};
  Costs costs;
  std::map<std::tuple<std::size_t, Use, Place>, PartCost> known;
  bool is_below_graph = true;
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    const Use use = layout.use(static_cast<std::int64_t>(l));
    const bool is_lowest = is_below_graph && use != Use::kWithoutGraph;
    const Place place = {.is_lowest = is_lowest,
                         .input_has_graph = !is_lowest || layout.trainable().lowest_of_any_graph() == 0};
    is_below_graph = is_below_graph && !is_lowest;
    const std::size_t kind = kind_of(model, l);
    const std::tuple key(kind, use, place);
    auto found = known.find(key);
    if (found == known.end()) found = known.emplace(key, wide_layer(options, narrow.factor, kind, use, place)).first;
    costs.layers.push_back(found->second);
  }
  const bool trains_head = layout.decoder().weights().lm_head.weight.requires_grad();
  costs.frozen_head = wide_head(options, narrow.factor, model, Use::kFrozen);
  costs.head = trains_head ? wide_head(options, narrow.factor, model, Use::kTrained) : costs.frozen_head;
  return costs;
}

}  // namespace adept::plan
