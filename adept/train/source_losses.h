// The loss of the training text by source.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "adept/core/json.h"

namespace adept::data {
struct Sequence;
class TrainLoader;
}  // namespace adept::data

namespace adept::train {

struct LossSum {
  double nats = 0;          ///< over the predicted tokens
  std::int64_t tokens = 0;  ///< predicted
  bool operator==(const LossSum&) const = default;
};

/// By name.
using SourceLosses = std::map<std::string, LossSum>;

/// Adds the losses (StepResult::sequence_losses) of sequences that `loader` gave.
void add_losses(SourceLosses& sums, const data::TrainLoader& loader, std::span<const data::Sequence> sequences,
                std::span<const double> sequence_losses);

/// Metrics: {"loss/<source>": nats per predicted token}, null for a source without one.
Json mean_losses(const SourceLosses& sums);

void to_json(Json& json, const LossSum& sum);
void from_json(const Json& json, LossSum& sum);

}  // namespace adept::train
