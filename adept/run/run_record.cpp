#include "adept/run/run_record.h"

#include <vector>

#include "adept/config/document.h"
#include "adept/core/cpu.h"
#include "adept/core/error.h"
#include "adept/core/version_info.h"
#include "adept/io/atomic_file.h"
#include "adept/run/run_directory.h"

namespace adept::run {

namespace fs = std::filesystem;

void write_run_record(const fs::path& directory, const config::RunConfig& config) {
  const std::int64_t threads = config.compute.threads > 0 ? config.compute.threads : available_cores();
  const Json versions = {
      {"adept", kVersion},     {"commit", kCommit},       {"torch", kTorchVersion},
      {"compiler", kCompiler}, {"cpu", cpu_model_name()}, {"instruction_sets", cpu_instruction_sets()},
      {"threads", threads},
  };
  io::write_file_atomically(directory / files::kVersions,
                            versions.dump(2) + "\n");  // first, as it marks a run's folder
  io::write_file_atomically(directory / files::kConfig, config::to_yaml(config));
}

std::optional<config::DTypeChoice> recorded_dtype(const fs::path& directory) {
  const std::string file = (directory / files::kConfig).string();
  try {
    std::vector<config::Problem> ignored;
    const config::Value document = config::parse_document(config::read_config_file(file), file, ignored);
    const config::Value* dtype = document.find("dtype");
    return dtype == nullptr ? std::nullopt : config::from_string<config::DTypeChoice>(dtype->text);
  } catch (const ConfigError&) {
    return std::nullopt;
  }
}

}  // namespace adept::run
