#include "adept/run/stage.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/io/atomic_file.h"
#include "adept/train/trainer_log.h"

namespace adept::run {
namespace {

std::optional<StageRecord> read_record(const std::filesystem::path& path, const std::string& name, const Json& inputs) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  try {
    const Json json = read_json(path);
    if (json.at("inputs_hash") != hash_of(inputs.dump())) return std::nullopt;
    return StageRecord{.name = name,
                       .inputs = inputs,
                       .seconds = json.at("seconds").get<double>(),
                       .peak_memory_bytes = json.at("peak_memory_bytes").get<std::int64_t>(),
                       .skipped = true};
  } catch (const std::exception& error) {  // a damaged record only costs doing the stage again
    spdlog::warn("{}: {}; the stage is done again", path.string(), error.what());
    return std::nullopt;
  }
}

double timed(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

StageRunner::StageRunner(std::filesystem::path run_dir) : run_dir_(std::move(run_dir)) {
  std::filesystem::create_directories(run_dir_ / "stages");
}

void StageRunner::run(const std::string& name, const Json& inputs, const std::vector<std::string>& outputs,
                      const std::function<void()>& work) {
  const std::filesystem::path path = run_dir_ / "stages" / (name + ".json");
  const bool complete = std::all_of(outputs.begin(), outputs.end(), [&](const std::string& output) {
    return std::filesystem::exists(run_dir_ / output);
  });
  if (complete)
    if (auto record = read_record(path, name, inputs)) {
      spdlog::info("{:<10} unchanged, kept", name);
      records_.push_back(*record);
      return;
    }
  std::filesystem::remove(path);  // work that fails halfway may have changed the outputs of the last time
  StageRecord record{
      .name = name, .inputs = inputs, .seconds = timed(work), .peak_memory_bytes = train::peak_memory_bytes()};
  io::write_file_atomically(path, Json{{"stage", name},
                                       {"inputs", inputs},
                                       {"inputs_hash", hash_of(inputs.dump())},
                                       {"seconds", record.seconds},
                                       {"peak_memory_bytes", record.peak_memory_bytes}}
                                          .dump(2) +
                                      "\n");
  records_.push_back(std::move(record));
}

void StageRunner::always(const std::string& name, const std::function<void()>& work) {
  const double seconds = timed(work);
  records_.push_back({.name = name, .inputs = {}, .seconds = seconds, .peak_memory_bytes = train::peak_memory_bytes()});
}

}  // namespace adept::run
