// Which activations of the frozen layers a training keeps: those of tokens that come again.
//
// The layers below the lowest trained one make the same of the same tokens throughout a run. Tokens come again in later
// epochs of the training text, in updates of the units' rates and in evaluations; what is computed of them the first
// time goes into a file of the run's directory (model/activation_cache.h), which is there until the training ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/data/train_loader.h"
#include "adept/model/activation_cache.h"
#include "adept/model/decoder.h"
#include "adept/model/frozen_prefix.h"
#include "adept/train/trainable.h"

namespace adept::train {

/// The run whose activations are kept. What is referred to must outlive KeptActivations.
struct KeptActivationsInputs {
  const config::RunConfig& config;
  const data::TrainLoader& loader;
  const model::Decoder& decoder;
  const Trainable& trainable;
  std::filesystem::path run_dir;     ///< exists
  std::string frozen_hash;           ///< of the tensors that do not train
  std::int64_t total_sequences = 0;  ///< of the whole run
  std::int64_t total_steps = 0;
  bool has_eval_text = false;
};

/// Decides what is kept, and holds the file. The result of a training does not depend on it.
class KeptActivations {
 public:
  explicit KeptActivations(KeptActivationsInputs inputs) : inputs_(std::move(inputs)) {}

  /// After `step` completed steps: opens the file, with what an earlier session of the same run left in it, if enough
  /// comes again; if not, the file is removed. The training text is kept only if all of it that comes again fits into
  /// train.activation_cache and half of what the disk has free. Where the file cannot be made there is a warning and
  /// none.
  void open(std::int64_t step);

  /// The model for a training step, and, after `step` completed steps, for an update of the units' rates and for an
  /// evaluation: it reads the file, and what is new is kept if the same will be computed later.
  model::FrozenPrefix for_step(const std::vector<data::Sequence>& sequences) const;
  model::FrozenPrefix for_update(std::int64_t step) const;
  model::FrozenPrefix for_evaluation(std::int64_t step) const;
  /// For what comes once: nothing new is kept.
  model::FrozenPrefix for_reading() const;

  /// Whether there is a file.
  bool in_use() const { return cache_ != nullptr; }

  /// Of this session; zeros without a file.
  model::ActivationCacheStats stats() const;

  /// Gives the disk its space back: nothing is kept or read from now on.
  void drop();

 private:
  bool comes_again(const data::Sequence& sequence) const;
  std::int64_t bytes_of_training_text() const;
  std::int64_t updates_left(std::int64_t step) const;
  std::int64_t evaluations_left(std::int64_t step) const;

  KeptActivationsInputs inputs_;
  std::unique_ptr<model::ActivationCache> cache_;
  bool keeps_training_text_ = false;
};

}  // namespace adept::train
