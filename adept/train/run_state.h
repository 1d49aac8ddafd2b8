// The state of a training that a checkpoint contains: everything that a resumed run needs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>

#include "adept/data/train_loader.h"
#include "adept/dist/process_group.h"
#include "adept/optim/adamw.h"
#include "adept/train/checkpoint.h"
#include "adept/train/trainable.h"

namespace adept::train {

class RunState {
 public:
  /// A training in `run_dir` (which exists), before its first step.
  RunState(std::filesystem::path run_dir, RunIdentity identity, data::TrainLoader data, optim::AdamW adamw)
      : loader(std::move(data)),
        optimizer(std::move(adamw)),
        run_dir_(std::move(run_dir)),
        identity_(std::move(identity)) {}

  TrainerState counts;  ///< its `loader` is from the last checkpoint
  data::TrainLoader loader;
  optim::AdamW optimizer;  ///< with the masters and moments

  const RunIdentity& identity() const { return identity_; }

  /// Continues from the newest intact checkpoint, if there is one; throws like load_newest_checkpoint and
  /// TrainLoader::load_state.
  void restore(Trainable& trainable, data::OtherMixture other);

  /// Rank 0 writes a checkpoint, and removes older ones beyond `total_limit`; removes none while updates are skipped.
  /// Every rank calls it, and gets the message of a DataError that ended the writing; empty if there was none.
  std::string write(std::int64_t total_limit, dist::ProcessGroup& group);
  /// Call on every process after it is written.
  void set_saved() { saved_step_ = counts.step; }

  /// Whether the newest checkpoint equals the current state.
  bool is_saved() const { return saved_step_ == counts.step; }
  /// Call on one process after a verified step that differs: checkpoints since the one before may contain the fault.
  void set_aside_unverified() { set_aside_checkpoints(run_dir_, counts.last_verified_step); }
  /// Call after a change that is not a step.
  void changed() { saved_step_ = -1; }

 private:
  std::filesystem::path path() const;

  std::filesystem::path run_dir_;
  RunIdentity identity_;
  std::int64_t saved_step_ = -1;
  std::set<std::filesystem::path> known_whole_;  // checkpoints
};

}  // namespace adept::train
