// The records of a token store: store.json of a complete one, progress.json of one that is being built.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/data/store/shard.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// Everything about a complete store but the ids.
struct StoreRecord {
  DatasetInfo info;
  std::string fingerprint{};  ///< of the dataset
  std::vector<ShardRecord> shards;
};

/// Everything that another process needs to go on with a store.
struct StoreProgress {
  Json inputs;  ///< inputs_of()
  std::vector<ShardRecord> shards;
  std::string documents{};  ///< the state of a DocumentHash after the documents of these shards
  std::int64_t text_bytes = 0;
  Json place;  ///< where the reader goes on
};

/// "00012.tokens".
std::string shard_name(std::size_t shard);

/// What decides the bytes of a store. The name of the source does not.
Json inputs_of(const DatasetInfo& info, std::int64_t shard_bytes);

/// A store is complete if this file is in its folder.
inline constexpr char kStoreFile[] = "store.json";

bool is_store(const std::filesystem::path& folder);
void write_store_record(const std::filesystem::path& folder, const StoreRecord& record);
/// Throws DataError with the file and what to do if it is missing, damaged, or of another version or kind.
StoreRecord read_store_record(const std::filesystem::path& folder);

void write_progress(const std::filesystem::path& folder, const StoreProgress& progress);
/// Nothing if there is none. Throws like read_store_record().
std::optional<StoreProgress> read_progress(const std::filesystem::path& folder);
bool has_progress(const std::filesystem::path& folder);
/// Both do nothing if there is none.
void remove_progress(const std::filesystem::path& folder);
void remove_store_record(const std::filesystem::path& folder);

}  // namespace adept::data
