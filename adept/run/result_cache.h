// Cache of measurements of models on texts, for runs that repeat them: runs of a sweep, which share their base, and
// interrupted runs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "adept/core/json.h"

namespace adept::run {

/// Whether runs share what they compute, in io::cache_directory(): not with ADEPT_RESULT_CACHE=off. Throws ConfigError
/// for another value of the variable.
bool shares_results();

/// A folder of records, keyed by everything that a result depends on.
class ResultCache {
 public:
  static constexpr std::int64_t kMostBytes = std::int64_t{256} << 20;

  /// The user's cache, results/ in io::cache_directory(); with ADEPT_RESULT_CACHE=off, the folder `own` of one run, or
  /// no cache if it is empty. Throws ConfigError for another value of the variable.
  static ResultCache open(const std::filesystem::path& own = {});

  /// A cache in `directory`; empty: no cache. Beyond `most_bytes`, the least recently used results are removed.
  explicit ResultCache(std::filesystem::path directory, std::int64_t most_bytes = kMostBytes);

  const std::filesystem::path& directory() const { return directory_; }

  /// The result for `key`. A damaged one is reported and removed.
  std::optional<Json> find(const Json& key) const;
  /// Stores a result and returns whether it succeeded; an unwritable folder is not an error.
  bool keep(const Json& key, const Json& result) const;
  void remove(const Json& key) const;

 private:
  std::filesystem::path path_of(const Json& key) const;
  void make_room() const;

  std::filesystem::path directory_;
  std::int64_t most_bytes_;
};

}  // namespace adept::run
