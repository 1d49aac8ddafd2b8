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

namespace adept::run {

/// What a run measures with.
struct Measuring {
  const config::RunConfig& config;
  config::Purpose purpose;
  const TextModel& model;  ///< the base model, whose layers are probed
  const Datasets& datasets;
  const ResultCache& cache;
};

/// The sets of data.eval. Values may be infinite or NaN.
eval::Results evaluate_model(const Measuring& measuring, const std::filesystem::path& model_dir);

/// The importance of layers, and the samples on which it was measured: importance.json.
Json probe_model(const Measuring& measuring);

/// The effect of each copy of a trained model on the sets of data.eval, by name: copies.json.
Json inspect_copies_of(const Measuring& measuring, const std::filesystem::path& model_dir);

}  // namespace adept::run
