// One file of a token store, little endian:
//
//     header         "ADEPTTOK", uint32 version (3), uint32 bytes per id: 2 or 4
//     ids            N x uint16 or uint32
//     document ends  D x W: the end of each document in the ids; W is 4 bytes if all numbers here fit, else 8
//     text bytes     D x W: the length of the UTF-8 text of each document
//     last ids       D ids: the last id of each document
//     untrained      uint64 U: the number of spans of tokens that are context only; unless it is 0, also
//                    D x W: the end of each document's spans among these, D x W: the bytes of their text,
//                    U x 2 uint32: begin and end of each in its document
//     block hashes   uint64 per 64 KiB of ids: XXH3-64
//     footer         uint64 D and N, uint32 W and the size of a block, 40 bytes: the hash of everything but the ids
//                    (xxh3:<32 digits>, zero-padded), "ADEPTEND"
//
// Each part (of `untrained` each line) is padded with zeros to a multiple of 8 bytes. A document lies in one shard.
// Version 2, which is read too, has no part `untrained`.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "adept/core/hash.h"
#include "adept/data/token_dataset.h"
#include "adept/io/atomic_file.h"
#include "adept/io/mapped_file.h"

namespace adept::data {

/// What the record of a store says about a shard.
struct ShardRecord {
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
  std::string hash{};  ///< of everything but the ids, which contains the hashes of these
};

/// 2 if every id of the vocabulary fits into 16 bits, else 4.
int bytes_per_id(std::int64_t vocab_size);

/// Writes a shard, which appears when it is complete and on disk. Memory: 1 MiB, and 20 to 40 bytes per document; with
/// untrained tokens 16 more, and 8 per span.
class ShardWriter {
 public:
  /// Throws DataError, here and below, if the file cannot be written (a full disk, for example).
  ShardWriter(const std::filesystem::path& path, int id_bytes);
  void append(std::span<const std::int32_t> ids);
  void end_document(std::int64_t text_bytes, const Untrained& untrained);
  /// Of the ids so far.
  std::int64_t num_bytes() const { return num_tokens_ * id_bytes_; }
  ShardRecord finish();

 private:
  void write_blocks(bool last);
  void write_hashed(std::span<const std::byte> part);
  void write_untrained(std::size_t number_bytes);

  io::AtomicFile file_;
  int id_bytes_;
  std::vector<std::byte> buffer_;  // ids that are not written yet
  std::int64_t num_tokens_ = 0;
  std::int32_t last_id_ = 0;
  std::vector<std::uint64_t> ends_, text_bytes_;
  std::vector<std::int32_t> last_ids_;
  std::vector<TokenSpan> spans_;                            // untrained
  std::vector<std::uint64_t> span_ends_, untrained_bytes_;  // of the documents up to the last one with spans
  std::vector<std::uint64_t> block_hashes_;
  Hasher hasher_;
};

/// What follows when a part that is read is found to be damaged.
enum class OnDamage {
  kKeep,     ///< the store stays as it is
  kDiscard,  ///< the store's record is removed, so that the next call makes the store again
};

/// A mapped shard. Its index is checked when it is first used, a block of ids when it is first read. Every function
/// throws DataError with the file, what is damaged, and what to do. Safe to use from several threads.
class Shard {
 public:
  /// Looks at the sizes, and compares them with the record.
  Shard(const std::filesystem::path& path, const ShardRecord& record, std::int64_t vocab_size,
        OnDamage on_damage = OnDamage::kKeep);

  std::int64_t num_documents() const { return record_.documents; }
  // Of document i of the shard.
  std::int64_t document_tokens(std::int64_t i) const;
  std::int64_t document_bytes(std::int64_t i) const;
  std::int32_t last_token(std::int64_t i) const;
  Untrained untrained(std::int64_t i) const;
  bool has_untrained() const { return num_spans_ > 0; }
  void read(std::int64_t i, std::int64_t begin, std::span<std::int32_t> out) const;
  /// Checks everything that was not checked yet. Throws InterruptedError after a signal.
  void verify() const;

 private:
  [[noreturn]] void fail(const std::string& problem) const;          // when it is opened
  [[noreturn]] void fail_damaged(const std::string& problem) const;  // when it is read
  void read_frame();
  void find_parts(std::uint32_t version, std::size_t num_documents, std::size_t num_tokens);
  std::uint64_t number_at(std::size_t part, std::int64_t i) const;
  std::int32_t id_at(std::size_t part, std::int64_t i) const;
  std::int64_t begin_of(std::int64_t i) const;
  Untrained untrained_at(std::int64_t i) const;
  void require_index() const;
  void check_index() const;
  void require_block(std::size_t block) const;

  std::shared_ptr<const io::MappedFile> file_;
  std::span<const std::byte> bytes_;
  ShardRecord record_;
  std::int64_t vocab_size_;
  OnDamage on_damage_;
  std::size_t id_bytes_;
  std::size_t number_bytes_ = 4;
  std::size_t ends_ = 0, text_bytes_ = 0, last_ids_ = 0, hashes_ = 0, footer_ = 0;  // where the parts start
  std::size_t span_ends_ = 0, untrained_bytes_ = 0, spans_ = 0;                     // the same, if there are spans
  std::size_t num_blocks_ = 0, num_spans_ = 0;
  mutable std::mutex mutex_;
  mutable std::atomic<bool> index_is_checked_ = false;
  mutable std::vector<std::atomic<std::uint64_t>> checked_blocks_;  // a bit per block
};

}  // namespace adept::data
