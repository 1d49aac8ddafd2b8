// A token store: a folder with tokenized documents that is built once, in steps that survive a kill, and mapped by any
// number of processes.
//
//     store.json      what it was made from and of, and the hash of each shard; written last
//     00000.tokens    the documents, in shards (store/shard.h)
//     progress.json   instead of store.json while it is built
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/core/progress.h"
#include "adept/data/store/store_record.h"
#include "adept/data/token_sink.h"

namespace adept::data {

/// How to handle a store, or a part of one, that is of other inputs; and a store that is damaged.
enum class OnOtherStore {
  kFail,     ///< ConfigError that says what differs; DataError for a damaged store
  kReplace,  ///< tokenize again, with an info message; a warning for a damaged store. OnDamage::kDiscard
};

struct StoreOptions {
  std::int64_t shard_bytes = std::int64_t{256} << 20;  ///< of ids, from which on a shard ends with its document
  OnOtherStore on_other = OnOtherStore::kFail;
};

/// Opens a complete store. Takes milliseconds: only sizes are checked; the index of a shard is checked when it is first
/// used, a block of ids when it is first read. Its mapped pages are the system's file cache, not memory of the process.
/// It is locked against remove_if_unused() as long as the dataset or a copy of it exists.
/// Throws DataError with the file and what to do if it is missing, damaged, or of another version or kind.
TokenDataset open_store(const std::filesystem::path& folder, OnDamage on_damage = OnDamage::kKeep);

/// Removes a store, or a part of one, unless a process has it open or builds it. Returns whether it was removed.
bool remove_if_unused(const std::filesystem::path& folder);

/// Reads all of a store and checks every hash and its fingerprint. Throws DataError; InterruptedError after a signal.
void verify_store(const std::filesystem::path& folder, Progress& progress = Progress::silent());

/// Writes a store shard by shard, and goes on after the last finished shard of an earlier process.
class StoreWriter : public TokenSink {
 public:
  /// Keeps the finished shards in the folder if they are of the same inputs; else removes them (kReplace) or throws
  /// ConfigError. Damaged ones are removed with a warning. The caller holds the folder's lock. Throws DataError, here
  /// and below, if a file cannot be written.
  StoreWriter(std::filesystem::path folder, const DatasetInfo& inputs, const StoreOptions& options);

  /// The place that end_document() was given after the last document that is kept; null: start at the beginning.
  const Json& place() const { return place_; }
  void append(std::span<const std::int32_t> ids) override;
  void end_document(std::int64_t text_bytes, const Untrained& untrained, PlaceInSource place) override;
  bool keeps_content_hash() const override { return true; }
  /// The complete store, called once, last. Sets the documents, bytes and tokens of info.counts.
  TokenDataset finish(DatasetInfo info);

 private:
  bool resume(OnOtherStore on_other);
  void remove_files_of_others() const;
  void finish_shard();

  std::filesystem::path folder_;
  std::int64_t shard_bytes_;
  OnDamage on_damage_;  // of the finished store
  int id_bytes_;
  std::int64_t vocab_size_;
  Json inputs_;
  Json place_;
  std::vector<ShardRecord> shards_;
  std::unique_ptr<ShardWriter> writer_;  // of the shard that is not finished
  DocumentHash documents_;
  std::int64_t text_bytes_ = 0;
};

/// The store in `folder` if it is complete and of the same inputs (fingerprints and vocabulary); else builds it: `fill`
/// writes documents from writer.place() on and returns what it read. One process at a time: the next one waits, and
/// uses what it finds then. A folder that this call created is removed if nothing was finished.
///
/// Throws DataError for a folder that contains other files, and if nothing can be written; what `fill` throws.
TokenDataset build_store(const std::filesystem::path& folder, const DatasetInfo& inputs, const StoreOptions& options,
                         FunctionRef<DatasetInfo(StoreWriter& writer)> fill);

}  // namespace adept::data
