// The table at the end of a run.
#pragma once

#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/core/json.h"
#include "adept/eval/metric.h"
#include "adept/run/stage.h"

namespace adept::run {

/// Results by name of the evaluation set; `before` may be empty.
struct RunResults {
  eval::Results before;
  eval::Results after;
  Json training;  ///< train::to_json(TrainSummary)
};

/// all_results.json.
Json results_json(const config::RunConfig& config, const RunResults& results, const std::vector<StageRecord>& stages);

/// The metrics of every set before and after training, the measured part of its text, trained parameters, time per
/// stage, tokens/s, peak memory.
std::string results_table(const config::RunConfig& config, const RunResults& results,
                          const std::vector<StageRecord>& stages);

}  // namespace adept::run
