// What a training will cost, before it starts: memory of each rank, time of a step, communication, and the whole run.
//
// Memory follows from the tensors of the model as the configuration trains it (layout.h) and from a rehearsal of its
// parts (rehearsal.h). Time follows from the same rehearsal on this machine, and elsewhere from the necessary
// operations and the machine's rates.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/core/json.h"
#include "adept/plan/adviser.h"
#include "adept/plan/copied_layers.h"
#include "adept/plan/machine.h"
#include "adept/plan/measuring.h"
#include "adept/plan/measuring_time.h"
#include "adept/plan/step_time.h"
#include "adept/run/inspect.h"
#include "adept/train/memory.h"

namespace adept::plan {

struct PlanOptions {
  Machine machine;
  std::int64_t ranks = 1;
  std::int64_t steps = 1;  ///< of the run
  run::MeasuredText text;
};

struct Plan {
  CopiedLayers copied;
  std::int64_t least_peak = 0;  ///< of a step with copies of the highest layers, where the layers are assumed
  double least_seconds = 0;
  std::int64_t parameters = 0, trained_parameters = 0;
  std::int64_t ranks = 1, tokens_per_step = 0;
  double flops_per_step = 0;  ///< necessary operations of one rank
  train::MemoryUse memory;    ///< of one rank in a step
  std::int64_t usable = 0;    ///< bytes of a device that a training can take
  StepTime time;
  Traffic traffic;  ///< of one rank in a step
  std::int64_t steps = 0;
  std::int64_t largest_batch = 0;  ///< the largest train.batch_size that fits; 0: none
  std::int64_t largest_batch_peak = 0;
  std::vector<StageMemory> measuring;  ///< of one rank where it measures
  std::vector<StageTime> measuring_time;
  std::vector<Advice> advice;  ///< where the configured batches do not fit

  /// Of one rank in the run.
  std::int64_t peak() const;
  /// The stage that has the peak; null: the training.
  const StageMemory* stage_of_peak() const;
  bool fits() const { return peak() <= usable; }
  double training_seconds() const { return static_cast<double>(steps) * time.total(); }
  /// Of the training and of what is measured.
  double hours() const;
  double device_hours() const { return hours() * static_cast<double>(ranks); }
};

/// Throws ConfigError and DataError like a run for a model or configuration that cannot be trained. Takes seconds for a
/// model of 1 B parameters: each kind of layer runs a few times.
Plan make_plan(const config::RunConfig& config, const std::filesystem::path& model_dir, const PlanOptions& options);

Json to_json(const Plan& plan, const Machine& machine);

/// The report, in lines.
std::string describe(const Plan& plan, const config::RunConfig& config, const Machine& machine);

}  // namespace adept::plan
