// Checkpoints: everything that a run needs to go on as if it had never stopped, bit for bit on a CPU.
//
//     checkpoint-<step>/
//       trainable.safetensors     fp32 masters of the expanded layers, by parameter name
//       optimizer.safetensors     AdamW's moments: exp_avg.<name>, exp_avg_sq.<name>
//       trainer_state.json        step, data position, unit importance, identity, a checksum of every tensor: a record
//
// A directory is written under a temporary name, synchronised and renamed, so that a checkpoint is whole or absent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/io/model_identity.h"
#include "adept/method/units.h"
#include "adept/optim/adamw.h"

namespace adept::train {

/// What a run is at the end of a step, beside its tensors. The generators of random numbers have no state of their own:
/// draws are functions of seed and position (core/random.h).
struct TrainerState {
  std::int64_t step = 0;               ///< completed steps
  std::int64_t total_steps = 0;        ///< of the whole run, as planned
  bool evaluation_due = false;         ///< after `step`: it was interrupted
  std::int64_t total_tokens = 0;       ///< positions processed
  std::int64_t nonfinite_in_row = 0;   ///< skipped updates since the last good one
  std::int64_t nonfinite_total = 0;    ///< skipped updates
  double train_seconds = 0;            ///< spent in steps, over all sessions of the run
  double necessary_flops = 0;          ///< of the steps' unavoidable matrix products, see StepCost
  double loss_sum = 0;                 ///< of the tokens since the last log line, nats
  std::int64_t loss_tokens = 0;        ///< predicted tokens since the last log line
  double last_loss = 0;                ///< of the last log line
  double run_loss_sum = 0;             ///< of all predicted tokens of the run, nats
  std::int64_t run_loss_tokens = 0;    ///< predicted tokens of the run
  Json loader;                         ///< position in the data
  method::UnitValues unit_importance;  ///< empty before the first probe
  method::UnitValues unit_lr_weights;  ///< of every trained parameter
};

/// What a checkpoint belongs to. A run with another identity refuses it.
struct RunIdentity {
  io::ModelIdentity model;  ///< that the run started from
  std::string frozen_hash;  ///< train::frozen_hash()
  Json config;              ///< of the keys that decide the result
};

/// Writes run_dir/checkpoint-<step> (replacing one of the same step) and returns its path. Throws DataError.
std::filesystem::path save_checkpoint(const std::filesystem::path& run_dir, const TrainerState& state,
                                      const RunIdentity& identity, const optim::AdamW& optimizer);

/// Removes checkpoints that are older than the newest `keep` (at least 2) whole ones. Which are whole is found by
/// reading them, unless their path is in `known_whole`; those that are found whole are added to it.
void prune_checkpoints(const std::filesystem::path& run_dir, std::int64_t keep,
                       std::set<std::filesystem::path>& known_whole);

/// The checkpoints of a run, newest first; names only, nothing is opened.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run_dir);

/// For messages: the newest checkpoint of at most `step` steps, or that there is none but the model that training
/// started from.
std::string last_state(const std::filesystem::path& run_dir, std::int64_t step);

/// What the newest checkpoint whose state can be read belongs to: to be asked before anything in run_dir changes.
struct CheckpointHeader {
  std::filesystem::path path;
  std::int64_t step = 0;
  io::ModelIdentity model;
  Json config;
};
std::optional<CheckpointHeader> newest_checkpoint(const std::filesystem::path& run_dir);

/// Asked before a training from the start. Throws ConfigError if run_dir holds checkpoints.
void require_no_checkpoints(const std::filesystem::path& run_dir);

/// A checkpoint of another run: what differs, one line each, and what to do.
ConfigError other_run_error(const std::filesystem::path& checkpoint, const std::vector<std::string>& differences);

/// Loads the newest checkpoint that is whole into the optimizer's masters and moments, and returns its state; nothing
/// if there is none. A damaged one is reported and passed over. Throws ConfigError if a checkpoint on the way belongs
/// to another run, naming what differs, or was made by a build of another version; DataError if there are checkpoints
/// but all are damaged. The optimizer is unchanged then.
std::optional<TrainerState> load_newest_checkpoint(const std::filesystem::path& run_dir, const RunIdentity& identity,
                                                   optim::AdamW& optimizer);

}  // namespace adept::train
