// Which layers get copies, as far as it is known before a run.
#pragma once

#include <filesystem>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/model/config.h"

namespace adept::plan {

struct CopiedLayers {
  /// Base layers, ascending, repeated per copy; empty: no copies. Where the probe is to choose them: the lowest ones,
  /// as layers below the lowest copy need no graph.
  std::vector<int> after;
  /// Likewise the highest ones; empty where `after` is known.
  std::vector<int> highest{};

  bool is_assumed() const { return !highest.empty(); }
};

/// Those of the configuration, or of a probe that has finished in output_dir. Throws ConfigError like
/// run::check_expansion.
CopiedLayers copied_layers(const config::RunConfig& config, const model::ModelConfig& base,
                           const std::filesystem::path& model_dir);

}  // namespace adept::plan
