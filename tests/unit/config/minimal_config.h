// The smallest configuration, and changes of it.
#pragma once

#include <string>
#include <vector>

#include "adept/config/run_config.h"

namespace adept::config {

inline constexpr char kMinimal[] = R"(model: base
output_dir: out
data:
  train: [{name: med, path: med.txt}]
  general: [{name: gen, path: gen.txt}]
)";

inline RunConfig parse(const std::string& text, const std::vector<std::string>& overrides = {},
                       Purpose purpose = Purpose::kRun) {
  return parse_run_config(text, "run.yaml", overrides, purpose);
}

inline RunConfig minimal_with(const std::vector<std::string>& overrides) { return parse(kMinimal, overrides); }

// Its general text is not replayed, so loading it says nothing.
inline RunConfig silent_with(std::vector<std::string> overrides) {
  overrides.push_back("train.replay_ratio=0");
  return minimal_with(overrides);
}

}  // namespace adept::config
