#include "adept/run/result_cache.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/io/atomic_file.h"
#include "adept/io/cache_directory.h"
#include "adept/io/record.h"

namespace adept::run {
namespace fs = std::filesystem;

bool shares_results() {
  const char* value = std::getenv("ADEPT_RESULT_CACHE");
  const std::string_view setting = value == nullptr ? "" : value;
  if (setting == "off") return false;
  if (setting.empty() || setting == "on") return true;
  throw ConfigError("ADEPT_RESULT_CACHE: found \"{}\"; expected on or off.", setting);
}

ResultCache ResultCache::open(const fs::path& own) {
  return ResultCache(shares_results() ? io::cache_directory() / "results" : own);
}

ResultCache::ResultCache(fs::path directory, std::int64_t most_bytes)
    : directory_(std::move(directory)), most_bytes_(most_bytes) {
  if (!directory_.empty()) io::remove_temporaries(directory_);
}

fs::path ResultCache::path_of(const Json& key) const {
  return directory_ / (hash_of(key.dump()).substr(std::string_view("xxh3:").size()) + ".json");
}

std::optional<Json> ResultCache::find(const Json& key) const {
  const fs::path path = path_of(key);
  std::error_code error;
  if (directory_.empty() || !fs::exists(path, error)) return std::nullopt;
  try {
    const Json record = io::read_record(path);
    if (record.at("key").dump() != key.dump()) return std::nullopt;
    fs::last_write_time(path, fs::file_time_type::clock::now(), error);
    return record.at("result");
  } catch (const DataError& problem) {
    log_warning("{} The measurement is repeated.", problem.what());
  } catch (const Json::exception&) {
    log_warning("{}: is not a measurement result. The measurement is repeated.", path.string());
  }
  fs::remove(path, error);
  return std::nullopt;
}

bool ResultCache::keep(const Json& key, const Json& result) const {
  if (directory_.empty()) return false;
  try {
    fs::create_directories(directory_);
    io::write_record(path_of(key), {{"key", key}, {"result", result}});
    make_room();
    return true;
  } catch (const DataError&) {
  } catch (const fs::filesystem_error&) {
  }
  return false;
}

void ResultCache::remove(const Json& key) const {
  std::error_code ignored;
  if (!directory_.empty()) fs::remove(path_of(key), ignored);
}

void ResultCache::make_room() const {
  struct Entry {
    fs::file_time_type used;
    fs::path path;
    std::int64_t bytes;
  };
  std::vector<Entry> entries;
  std::int64_t total = 0;
  std::error_code error;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;  // by another process
    const auto bytes = static_cast<std::int64_t>(it->file_size(gone));
    const auto used = it->last_write_time(gone);
    if (gone || it->path().extension() != ".json") continue;
    entries.push_back({used, it->path(), bytes});
    total += bytes;
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (total <= most_bytes_) return;
    fs::remove(entry.path, error);
    total -= entry.bytes;
  }
}

}  // namespace adept::run
