#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "adept/config/document.h"
#include "adept/config/run_config.h"
#include "adept/core/cpu.h"
#include "adept/core/error.h"
#include "adept/core/version_info.h"

namespace adept::config {
namespace {

namespace fs = std::filesystem;

/// Whole or not at all. Not synced: a record that a power cut takes is written again by the next start.
void write_file(const fs::path& path, const std::string& text) {
  const fs::path temporary = path.string() + ".tmp";
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  std::error_code error(errno, std::generic_category());
  const bool written = !file.fail();
  if (written) fs::rename(temporary, path, error);
  if (!written || error) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw DataError("{}: cannot be written: {}", path.string(), error.message());
  }
}

}  // namespace

void write_run_record(const fs::path& directory, const RunConfig& config) {
  const std::int64_t threads = config.compute.threads > 0 ? config.compute.threads : available_cores();
  const Json versions = {
      {"adept", kVersion},     {"commit", kCommit},       {"torch", kTorchVersion},
      {"compiler", kCompiler}, {"cpu", cpu_model_name()}, {"instruction_sets", cpu_instruction_sets()},
      {"threads", threads},
  };
  write_file(directory / "config.yaml", to_yaml(config));
  write_file(directory / "versions.json", versions.dump(2) + "\n");
}

std::optional<DTypeChoice> recorded_dtype(const fs::path& directory) {
  const std::string file = (directory / "config.yaml").string();
  try {
    std::vector<Problem> ignored;
    const Value document = parse_document(read_config_file(file), file, ignored);
    const Value* dtype = document.find("dtype");
    return dtype == nullptr ? std::nullopt : from_string<DTypeChoice>(dtype->text);
  } catch (const ConfigError&) {
    return std::nullopt;
  }
}

}  // namespace adept::config
