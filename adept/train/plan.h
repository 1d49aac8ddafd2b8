// The plan of a training before its first step: its length, its schedule, and the keys that decide its result.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "adept/config/run_config.h"
#include "adept/core/json.h"
#include "adept/data/train_loader.h"
#include "adept/io/model_identity.h"
#include "adept/optim/schedule.h"
#include "adept/train/source_use.h"

namespace adept::train {

/// Of a step: batch_size * grad_accum of each process of the job.
std::int64_t sequences_per_step(const TrainOptions& config);

/// Fractional warm-up and decay refer to `total_steps`.
optim::Schedule make_schedule(const TrainOptions& config, std::int64_t total_steps);

/// The position in the data at which a training begins; not the start with train.continue_data.
struct TrainingStart {
  double epochs = 0;                 ///< of the first source, read before the first step
  std::int64_t sequences = 0;        ///< of all sources, read before the first step
  std::vector<SourceUse> sources{};  ///< likewise
};

inline TrainingStart start_of(const data::TrainLoader& loader) {
  return {.epochs = loader.epochs(0), .sequences = loader.num_sequences(), .sources = source_uses(loader)};
}

struct TrainingLength {
  std::int64_t sequences = 0;  ///< provided by the loader in total; the last step may use fewer than the others
  std::int64_t steps = 0;      ///< of the whole run
};

/// The length of a run after `done` steps, with its loader at the corresponding position. A resumed run may have
/// another length than planned. Throws ConfigError if the run has already made more steps, or read more data.
TrainingLength training_length(const TrainOptions& config, const data::TrainLoader& loader, const TrainingStart& start,
                               std::int64_t done);

/// The keys that decide the weights after a step (config::decides::kTraining), for RunIdentity::config. Contains the
/// product of batch_size, grad_accum and the number of processes instead of both, and no keys that the method does not
/// use.
Json deciding_config(const config::RunConfig& config);

/// Call before anything in run_dir changes. Throws ConfigError if its newest checkpoint has other values of the
/// deciding keys, belongs to another model (if `model` is known), or has read other data than `loader` (if given).
void check_same_training(const std::filesystem::path& run_dir, const config::RunConfig& config,
                         const std::optional<io::ModelIdentity>& model,
                         std::optional<data::TrainLoader> loader = std::nullopt,
                         data::OtherMixture other = data::OtherMixture::kRefused);

/// Call last of the checks. Throws ConfigError if the newest checkpoint in run_dir has more steps than configured.
void check_not_shorter(const std::filesystem::path& run_dir, const config::RunConfig& config);

}  // namespace adept::train
