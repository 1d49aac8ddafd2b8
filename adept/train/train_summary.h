// Summary of a training: train_results.json.
#pragma once

#include <cstdint>

#include "adept/core/json.h"
#include "adept/model/activation_cache.h"
#include "adept/train/memory.h"
#include "adept/train/source_use.h"

namespace adept::train {

struct TrainSummary {
  std::int64_t steps = 0;
  std::int64_t total_tokens = 0;  ///< positions processed
  std::vector<SourceUse> sources;
  std::int64_t trained_parameters = 0;
  std::int64_t all_parameters = 0;
  std::int64_t nonfinite_steps = 0;  ///< skipped updates
  double train_loss = 0;             ///< mean over the predicted tokens of the whole run, as in transformers
  double final_loss = 0;             ///< of the last log line
  double train_seconds = 0;          ///< spent in steps
  double tokens_per_second = 0;
  double speed_of_light =
      0;                 ///< time of the necessary matrix products at the machine's rate, as a share of train_seconds
  double data_wait = 0;  ///< share of this session's steps that was spent waiting for data
  MemoryUse memory;      ///< of this session's steps
  model::ActivationCacheStats activation_cache;  ///< of this session
};
Json to_json(const TrainSummary& summary);

}  // namespace adept::train
