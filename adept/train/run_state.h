// What a checkpoint holds of a training: the only things that a resumed run goes on with.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>

#include "adept/data/train_loader.h"
#include "adept/optim/adamw.h"
#include "adept/train/checkpoint.h"
#include "adept/train/trainable.h"

namespace adept::train {

class RunState {
 public:
  /// A training in `run_dir`, which exists, before its first step.
  RunState(std::filesystem::path run_dir, RunIdentity identity, data::TrainLoader data, optim::AdamW adamw)
      : loader(std::move(data)),
        optimizer(std::move(adamw)),
        run_dir_(std::move(run_dir)),
        identity_(std::move(identity)) {}

  TrainerState counts;  ///< its `loader` is that of the last checkpoint
  data::TrainLoader loader;
  optim::AdamW optimizer;  ///< with the masters and moments

  const std::filesystem::path& run_dir() const { return run_dir_; }
  const RunIdentity& identity() const { return identity_; }

  /// Goes on from the newest whole checkpoint, if there is one; throws as load_newest_checkpoint does.
  void restore(Trainable& trainable);

  /// Writes a checkpoint, and removes older ones beyond `total_limit`; while updates are skipped none is removed.
  /// Throws DataError.
  void save(std::int64_t total_limit);

  /// Whether the newest checkpoint holds what the state is now.
  bool is_saved() const { return saved_step_ == counts.step; }
  /// To be told of a change that is no step.
  void changed() { saved_step_ = -1; }

 private:
  std::filesystem::path path() const;

  std::filesystem::path run_dir_;
  RunIdentity identity_;
  std::int64_t saved_step_ = -1;
  std::set<std::filesystem::path> known_whole_;  // checkpoints
};

}  // namespace adept::train
