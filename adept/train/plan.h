// What a configuration makes of a training before its first step: its length, its rates, and the keys that decide its
// result.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "adept/config/run_config.h"
#include "adept/core/json.h"
#include "adept/data/train_loader.h"
#include "adept/io/model_identity.h"
#include "adept/optim/schedule.h"

namespace adept::train {

/// Warm-up and decay that are shares are those of `total_steps`.
optim::Schedule make_schedule(const config::TrainConfig& config, std::int64_t total_steps);

/// Where a training begins in its data: elsewhere than at the start with train.continue_data.
struct TrainingStart {
  double epochs = 0;           ///< of the first source, that were read before its first step
  std::int64_t sequences = 0;  ///< of all sources, likewise
};

inline TrainingStart start_of(const data::TrainLoader& loader) {
  return {.epochs = loader.epochs(0), .sequences = loader.num_sequences()};
}

struct TrainingLength {
  std::int64_t sequences = 0;  ///< that the loader has given at the end; the last step may take fewer than the others
  std::int64_t steps = 0;      ///< of the whole run
};

/// The length of a run that has made `done` steps and whose loader is where they left it. A run that is resumed may be
/// longer or shorter than it was to be. Throws ConfigError where it has made more steps, or read more, already.
TrainingLength training_length(const config::TrainConfig& config, const data::TrainLoader& loader,
                               const TrainingStart& start, std::int64_t done);

/// The keys that decide the weights after a step (config::decides::kTraining), for RunIdentity::config. Of the
/// micro-batch and their number in a step it has the product, and of the method's own section none but that of the
/// method.
Json deciding_config(const config::RunConfig& config);

/// Asked before anything in run_dir changes. Throws ConfigError if its newest checkpoint was made with other keys that
/// decide the result, from another model (where `model` is known), or has more steps than there are to be.
void check_same_training(const std::filesystem::path& run_dir, const config::RunConfig& config,
                         const std::optional<io::ModelIdentity>& model);

}  // namespace adept::train
