// Decides which activations of frozen layers to cache: those of tokens that come again.
//
// The layers below the lowest trained one give the same output for the same tokens throughout a run. Tokens come again
// in later epochs of the training text, in updates of the units' rates and in evaluations. Their activations are cached
// in a file in the run's directory (model/activation_cache.h) until training ends.
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

/// The run whose activations are cached. Referenced objects must outlive KeptActivations.
struct KeptActivationsInputs {
  const config::RunConfig& config;
  const data::TrainLoader& loader;
  const model::Decoder& decoder;
  const Trainable& trainable;
  std::filesystem::path run_dir;     ///< exists
  std::string frozen_hash;           ///< of the frozen tensors
  std::int64_t total_sequences = 0;  ///< of the whole run
  std::int64_t total_steps = 0;
  bool has_eval_text = false;
};

/// Decides what to cache, and owns the file. The result of a training does not depend on it.
class KeptActivations {
 public:
  explicit KeptActivations(KeptActivationsInputs inputs) : inputs_(std::move(inputs)) {}

  /// Call after `step` completed steps. If enough tokens come again, opens the file with the entries of earlier
  /// sessions of the same run; otherwise removes it. The training text is cached only if all of its repeated part fits
  /// into train.activation_cache and into half of the free disk space. Warns if the file cannot be created and
  /// continues without it.
  void open(std::int64_t step);

  /// The model for a training step and, after `step` completed steps, for an update of the units' rates and for an
  /// evaluation. It reads the cache, and adds new activations if they will be needed again.
  model::FrozenPrefix for_step(const std::vector<data::Sequence>& sequences) const;
  model::FrozenPrefix for_update(std::int64_t step) const;
  model::FrozenPrefix for_evaluation(std::int64_t step) const;
  /// For tokens that do not come again: adds nothing.
  model::FrozenPrefix for_reading() const;

  /// Whether a cache file exists.
  bool in_use() const { return cache_ != nullptr; }

  /// Statistics of this session; zeros without a file.
  model::ActivationCacheStats stats() const;

  /// Removes the file; nothing is cached or read after that.
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
