// Records the configuration and the environment of a run.
#pragma once

#include <filesystem>
#include <optional>

#include "adept/config/run_config.h"

namespace adept::run {

/// Writes config.yaml (resolved) and versions.json (adept, commit, torch, compiler, processor, threads) into
/// `directory`, which must exist. Throws DataError if writing fails.
void write_run_record(const std::filesystem::path& directory, const config::RunConfig& config);

/// The dtype in the config.yaml that write_run_record left in `directory`; nothing if none can be read.
std::optional<config::DTypeChoice> recorded_dtype(const std::filesystem::path& directory);

}  // namespace adept::run
