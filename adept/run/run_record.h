// What was run, and with what.
#pragma once

#include <filesystem>
#include <optional>

#include "adept/config/run_config.h"

namespace adept::run {

/// The file that marks the folder of a run: it is the first one there.
inline constexpr const char* kVersionsFile = "versions.json";

/// Writes config.yaml (resolved) and kVersionsFile (adept, commit, torch, compiler, processor, threads) into
/// `directory`, which must exist. Throws DataError where it cannot write.
void write_run_record(const std::filesystem::path& directory, const config::RunConfig& config);

/// The dtype in the config.yaml that write_run_record left in `directory`; nothing where none can be read.
std::optional<config::DTypeChoice> recorded_dtype(const std::filesystem::path& directory);

}  // namespace adept::run
