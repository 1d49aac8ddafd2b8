#include "adept/run/stage.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/core/process_memory.h"
#include "adept/core/progress.h"
#include "adept/io/mapped_file.h"
#include "adept/io/record.h"
#include "adept/io/weight_files.h"
#include "adept/nn/allocator.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

std::string hash_of_file(const fs::path& path) {
  const auto file = io::MappedFile::open(path);
  return hash_of(file->bytes());
}

/// Adds a model directory's weights, by the hash that later stages also use, and returns their files.
std::set<fs::path> add_weights(const fs::path& directory, Json& content) {
  std::set<fs::path> files;
  try {
    const io::WeightFiles weights = io::WeightFiles::open(directory);
    content["weights"] = weights.hash();
    for (const auto& [path, header] : weights.headers()) {
      content[path.filename().string()] = hash_of(header);
      files.insert(path);
    }
  } catch (const DataError&) {  // damaged: hashed as bytes instead
    files.clear();
  }
  return files;
}

/// Hash of a file's bytes, or of every file below a folder, by name.
Json content_of(const fs::path& path) {
  if (!fs::is_directory(path)) return hash_of_file(path);
  Json content = Json::object();
  const std::set<fs::path> hashed =
      fs::exists(path / "config.json") ? add_weights(path, content) : std::set<fs::path>();
  std::vector<fs::path> entries;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file() && !hashed.contains(entry.path())) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  for (const fs::path& entry : entries) content[fs::relative(entry, path).string()] = hash_of_file(entry);
  return content;
}

/// The name of an output that differs from the record; empty if none does.
std::string changed_output(const fs::path& run_dir, const Json& recorded) {
  for (const auto& [name, content] : recorded.items())
    if (!fs::exists(run_dir / name) || content_of(run_dir / name) != content) return name;
  return "";
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Resets the peak memory, so a stage does not count an earlier one's.
void forget_memory() {
  nn::release_cached_memory();
  reset_peak_rss();
}

/// The record of an earlier session; null if there is none, or none that can be read.
Json read_record(const fs::path& path) {
  if (!fs::exists(path)) return {};
  try {
    const Json json = io::read_record(path);
    json.at("inputs");
    json.at("seconds").get<double>();
    json.at("peak_rss_bytes").get<std::int64_t>();
    if (json.at("outputs").is_object()) return json;
  } catch (const DataError& error) {  // a damaged record only causes its stage to be repeated
    std::string what = error.what();
    if (what.ends_with('.')) what.pop_back();
    log_warning("{}; repeating the stage", what);
    return {};
  } catch (const Json::exception&) {
    // reported below
  }
  log_warning("{}: is not the record of a stage; repeating the stage", path.string());
  return {};
}

/// Whether the record is of a completed stage with these inputs.
bool is_of(const Json& record, const Json& inputs) {
  return !record.is_null() && record["inputs"].dump() == inputs.dump() && !record.value("interrupted", false);
}

}  // namespace

StageRunner::StageRunner(fs::path run_dir) : run_dir_(std::move(run_dir)) {
  fs::create_directories(run_dir_ / files::kStages);
}

const Json& StageRunner::earlier(const std::string& name) {
  auto found = earlier_.find(name);
  if (found == earlier_.end()) found = earlier_.emplace(name, read_record(record_path(name))).first;
  return found->second;
}

std::vector<std::string> StageRunner::other_inputs(const std::string& name, const Json& inputs) {
  const Json& record = earlier(name);
  return record.is_null() ? std::vector<std::string>() : io::differences(record["inputs"], inputs);
}

void StageRunner::run(const std::string& name, const Json& inputs, const std::vector<std::string>& outputs,
                      const std::function<void()>& work) {
  const fs::path path = record_path(name);
  Json record = earlier(name);
  earlier_[name] = Json();  // from here on the file may change
  const bool same_inputs = !record.is_null() && record["inputs"].dump() == inputs.dump();
  if (same_inputs && !record.value("interrupted", false)) {
    const std::string changed = changed_output(run_dir_, record["outputs"]);
    if (changed.empty()) {
      keep(name, inputs, record);
      earlier_[name] = record;
      return;
    }
    const fs::path output = run_dir_ / changed;
    if (fs::exists(output))
      log_warning("{}: changed since the run wrote it; repeating the stage", output.string());
    else
      log_info("{:<10} {} no longer exists; repeating the stage", name, output.string());
  }
  forget_memory();
  fs::remove(path);  // failed work may have changed the previous outputs
  const double before = same_inputs && record.value("interrupted", false) ? record["seconds"].get<double>() : 0.0;
  const auto start = std::chrono::steady_clock::now();
  record = {{"stage", name}, {"inputs", inputs}, {"outputs", Json::object()}};
  memory_ = {};
  const auto measure = [&] {
    record["seconds"] = before + seconds_since(start);
    record["peak_rss_bytes"] = peak_rss_bytes();
    if (!memory_.is_null()) record["memory_bytes"] = memory_;
  };
  try {
    work();
  } catch (const InterruptedError&) {
    measure();
    record["interrupted"] = true;
    io::write_record(path, record);
    throw;
  }
  for (const std::string& output : outputs)
    record["outputs"][output] = fs::exists(run_dir_ / output) ? content_of(run_dir_ / output) : Json();
  measure();
  io::write_record(path, record);
  earlier_[name] = record;
  records_.push_back({.name = name,
                      .inputs = inputs,
                      .seconds = record["seconds"].get<double>(),
                      .peak_rss_bytes = record["peak_rss_bytes"].get<std::int64_t>(),
                      .memory = memory_});
}

void StageRunner::keep(const std::string& name, const Json& inputs, const Json& record) {
  log_info("{:<10} unchanged, kept", name);
  records_.push_back({.name = name,
                      .inputs = inputs,
                      .seconds = record["seconds"].get<double>(),
                      .peak_rss_bytes = record["peak_rss_bytes"].get<std::int64_t>(),
                      .memory = record.value("memory_bytes", Json()),
                      .skipped = true});
}

bool StageRunner::is_done(const std::string& name, const Json& inputs) {
  const Json& record = earlier(name);
  return is_of(record, inputs) && changed_output(run_dir_, record["outputs"]).empty();
}

bool StageRunner::keep_without_outputs(const std::string& name, const Json& inputs) {
  const Json& record = earlier(name);
  if (!is_of(record, inputs)) return false;
  keep(name, inputs, record);
  return true;
}

void StageRunner::discard(const std::string& name, const std::vector<std::string>& outputs) {
  if (!fs::exists(record_path(name))) return;
  for (const std::string& output : outputs) fs::remove_all(run_dir_ / output);
  fs::remove(record_path(name));
}

void StageRunner::always(const std::string& name, const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  forget_memory();
  work();
  const double seconds = seconds_since(start);
  records_.push_back({.name = name, .inputs = {}, .seconds = seconds, .peak_rss_bytes = peak_rss_bytes()});
}

}  // namespace adept::run
