#include "adept/train/training_length.h"

namespace adept::train {

TrainingLength training_length(const config::TrainConfig& train, const data::TrainLoader& loader) {
  const std::int64_t per_step = train.batch_size * train.grad_accum;
  if (train.max_steps) return {.sequences = *train.max_steps * per_step, .steps = *train.max_steps};
  const std::int64_t sequences = loader.sequences_for_epochs(train.num_train_epochs.value_or(1.0));
  return {.sequences = sequences, .steps = (sequences + per_step - 1) / per_step};
}

}  // namespace adept::train
