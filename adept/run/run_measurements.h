// What the stages of a run measure. Every process of the job calls the same function with the same arguments: they
// divide the work (run/measure.h), and each gets the result.
#pragma once

#include <filesystem>

#include "adept/config/run_config.h"
#include "adept/core/json.h"
#include "adept/eval/metric.h"
#include "adept/run/measure.h"
#include "adept/run/result_cache.h"
#include "adept/run/text.h"
#include "adept/train/memory.h"

namespace adept::run {

/// What a run measures with.
struct Measuring {
  const config::RunConfig& config;
  config::Purpose purpose;
  const TextModel& model;  ///< the base model, whose layers are probed
  const Datasets& datasets;
  const ResultCache& cache;
};

/// A result, and the memory of this process: zero if the result was found in the cache.
template <typename Result>
struct Measured {
  Result result;
  train::MemoryUse memory;
};

/// The sets of data.eval. Values may be infinite or NaN.
Measured<eval::Results> evaluate_model(const Measuring& measuring, const std::filesystem::path& model_dir);

/// The importance of layers, and the samples on which it was measured: importance.json.
Measured<Json> probe_model(const Measuring& measuring);

/// The effect of each copy of a trained model on the sets of data.eval, by name: copies.json.
Measured<Json> inspect_copies_of(const Measuring& measuring, const std::filesystem::path& model_dir);

}  // namespace adept::run
