// What was measured of models on texts, for runs that would measure the same again: those of a sweep, which share their
// base, and those that were interrupted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "adept/core/json.h"

namespace adept::run {

/// A folder of records, each found by everything that its result depends on.
class ResultCache {
 public:
  static constexpr std::int64_t kMostBytes = std::int64_t{256} << 20;

  /// Of the user, results/ in io::cache_directory(); with ADEPT_RESULT_CACHE=off the folder `own` of a run alone, which
  /// may be empty: then nothing is kept. Throws ConfigError for another value of the variable.
  static ResultCache open(const std::filesystem::path& own = {});

  /// In `directory`; empty: nothing is kept. The results that were not used for longest make way for new ones beyond
  /// `most_bytes`.
  explicit ResultCache(std::filesystem::path directory, std::int64_t most_bytes = kMostBytes);

  const std::filesystem::path& directory() const { return directory_; }

  /// The result for `key`. A damaged one is reported and removed.
  std::optional<Json> find(const Json& key) const;
  /// Whether it is kept: a folder that cannot be written costs the next run its time and this one nothing.
  bool keep(const Json& key, const Json& result) const;
  void remove(const Json& key) const;

 private:
  std::filesystem::path path_of(const Json& key) const;
  void make_room() const;

  std::filesystem::path directory_;
  std::int64_t most_bytes_;
};

}  // namespace adept::run
