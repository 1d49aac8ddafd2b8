// Checkpoints: everything that a run needs to continue as if uninterrupted, bit for bit on a CPU.
//
//     checkpoint-<step>/
//       trainable.safetensors     fp32 masters of what trains, by parameter name
//       optimizer.safetensors     AdamW's moments: exp_avg.<name>, exp_avg_sq.<name>
//       trainer_state.json        step, data position, unit importance, identity, a checksum of every tensor: a record
//
// A directory is written under a temporary name, synced and renamed, so a checkpoint is either complete or absent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/io/model_identity.h"
#include "adept/method/units.h"
#include "adept/optim/adamw.h"
#include "adept/train/source_losses.h"

namespace adept::train {

/// The state of a run after a step, except its tensors. Random numbers have no state: they are functions of seed and
/// position (core/random.h).
struct TrainerState {
  std::int64_t step = 0;                ///< completed steps
  std::int64_t total_steps = 0;         ///< planned for the whole run
  bool evaluation_due = false;          ///< the evaluation after `step` was interrupted
  std::int64_t total_tokens = 0;        ///< positions processed
  std::int64_t nonfinite_in_row = 0;    ///< skipped updates since the last finite one
  std::int64_t nonfinite_total = 0;     ///< skipped updates
  std::int64_t last_verified_step = 0;  ///< that gave the same bits twice (train.verify_every)
  std::string skipped{};                ///< what is wrong with a newer checkpoint; not saved
  double train_seconds = 0;             ///< spent in steps, over all sessions of the run
  double necessary_flops = 0;           ///< of the steps' necessary matrix products, see StepCost
  double loss_sum = 0;                  ///< of the tokens since the last log line, nats
  std::int64_t loss_tokens = 0;         ///< predicted tokens since the last log line
  SourceLosses source_losses{};         ///< since the last log line
  double last_loss = 0;                 ///< of the last log line
  double run_loss_sum = 0;              ///< of all predicted tokens of the run, nats
  std::int64_t run_loss_tokens = 0;     ///< predicted tokens of the run
  Json loader;                          ///< position in the data
  method::UnitValues unit_importance;   ///< empty before the first update
  method::UnitValues unit_lr_weights;   ///< of every trained parameter
};

/// Identifies the run of a checkpoint. Runs with another identity reject it.
struct RunIdentity {
  io::ModelIdentity model;  ///< that the run started from
  std::string frozen_hash;  ///< train::frozen_hash()
  Json config;              ///< the keys that decide the result
};

/// Writes run_dir/checkpoint-<step> (replacing one of the same step) and returns its path. `tensors` has the whole
/// state() of the optimizer, so that a checkpoint does not depend on the number of processes; each is written as it is
/// read. Throws DataError.
std::filesystem::path save_checkpoint(const std::filesystem::path& run_dir, const TrainerState& state,
                                      const RunIdentity& identity, const optim::AdamW& optimizer,
                                      optim::WholeTensors& tensors);

/// Removes checkpoints older than the newest `keep` (at least 2) intact ones, except the newest intact one of at most
/// `verified` steps, which a fault may lead back to. Reads checkpoints to verify them, unless they are in
/// `known_whole`, and adds intact ones to it.
void prune_checkpoints(const std::filesystem::path& run_dir, std::int64_t keep,
                       std::set<std::filesystem::path>& known_whole, std::int64_t verified = 0);

/// Renames checkpoints of more than `step` steps, so that no run resumes from them: unverified-checkpoint-<step>.
void set_aside_checkpoints(const std::filesystem::path& run_dir, std::int64_t step);

/// The checkpoints of a run, newest first; by name, without opening them.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run_dir);

/// For messages: the newest checkpoint of at most `step` steps, or the model that training started from.
std::string last_state(const std::filesystem::path& run_dir, std::int64_t step);

/// Header of the newest checkpoint with a readable state. Call before anything in run_dir changes.
struct CheckpointHeader {
  std::filesystem::path path;
  std::int64_t step = 0;
  io::ModelIdentity model;
  Json config;
  Json loader;  ///< the state of the data loader
};
std::optional<CheckpointHeader> newest_checkpoint(const std::filesystem::path& run_dir);

/// Call before training from the start. Throws ConfigError if run_dir contains checkpoints.
void require_no_checkpoints(const std::filesystem::path& run_dir);

/// Differences between the deciding keys and models of a saved training and of one that is to continue it, one line
/// each; of another method, that line alone, because the rest follows from it. No models: they are not compared.
std::vector<std::string> training_differences(const Json& saved_config, const Json& config,
                                              const std::optional<io::ModelIdentity>& saved_model,
                                              const std::optional<io::ModelIdentity>& model);

/// Error for a checkpoint of a different run: lists the differences and says what to do.
ConfigError other_run_error(const std::filesystem::path& checkpoint, const std::vector<std::string>& differences);

/// Gets each whole master that a checkpoint contains, in fp32.
using OnMaster = std::function<void(const std::string& name, const at::Tensor& master)>;

/// Loads the newest intact checkpoint into the optimizer's masters and moments, and returns its state; nothing if there
/// is none. Calls `on_master` after the optimizer has its part. Skips damaged checkpoints, with a warning of rank 0.
/// Throws ConfigError with the differences if a checkpoint belongs to a different run, or has another format version;
/// DataError if all checkpoints are damaged. On errors the optimizer is unchanged.
std::optional<TrainerState> load_newest_checkpoint(const std::filesystem::path& run_dir, const RunIdentity& identity,
                                                   optim::AdamW& optimizer, const OnMaster& on_master = {});

}  // namespace adept::train
