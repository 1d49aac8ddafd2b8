// The memory of a rank where a run measures models: before and after its training, and in it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/io/weight_files.h"
#include "adept/method/importance.h"
#include "adept/plan/buffers.h"
#include "adept/plan/costs.h"
#include "adept/plan/layout.h"
#include "adept/train/memory.h"

namespace adept::plan {

/// What a run measures.
struct Measures {
  explicit Measures(const config::RunConfig& config);
  bool baseline, probe, units, eval_in_training, copies;  ///< `baseline`: also the evaluation of the result
};

/// Whether a method measures the sequences of a batch one by one, or its layers.
bool takes_single_sequences(const method::ImportanceMethod& method, const model::Decoder& decoder);
bool masks_layers(const method::ImportanceMethod& method, const model::Decoder& decoder);

/// Bytes of a rank in a stage.
struct StageMemory {
  std::string name;              ///< as of a stage of a run; or what a training measures
  std::int64_t weights = 0;      ///< of the model; in a training with masters and moments
  std::int64_t peak = 0;         ///< for the longest batches that the configuration allows
  std::string batch_key;         ///< that the batches come from
  std::int64_t peak_of_one = 0;  ///< with batches of one sequence
};

/// What is known of the training.
struct PlannedTraining {
  const config::RunConfig& config;
  const model::ModelConfig& base;
  const io::WeightFiles& files;
  std::span<const int> after;  ///< base layers that get copies
  const Layout& layout;
  const Costs& costs;
  train::MemoryUse memory;  ///< of a step
  Communication communication;
  bool is_exact = false;  ///< measurements are rehearsed on layers of the model's width; otherwise of a narrower one
};

/// In the order of a run. Rehearses each measurement.
std::vector<StageMemory> measuring_memory(const PlannedTraining& training);

}  // namespace adept::plan
