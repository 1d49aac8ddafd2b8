// How long a training is.
#pragma once

#include <cstdint>

#include "adept/config/run_config.h"
#include "adept/data/train_loader.h"

namespace adept::train {

struct TrainingLength {
  std::int64_t sequences = 0;
  std::int64_t steps = 0;  ///< the last may take fewer sequences than the others
};

/// By max_steps, else by epochs of the data. Throws ConfigError for more epochs than can be counted.
TrainingLength training_length(const config::TrainConfig& train, const data::TrainLoader& loader);

}  // namespace adept::train
