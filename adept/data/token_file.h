// The file format of a tokenized dataset, little endian:
//
//     magic "ADEPTTOK"              8 bytes
//     version                       uint32, 1
//     reserved                      uint32, 0
//     ids                           N x int32, then zeros to a multiple of 8 bytes
//     offsets of the documents      (D + 1) x int64
//     byte lengths of their texts   D x int64
//     JSON                          J bytes: name, vocab_size, fingerprints, counts, and the hash of the three arrays
//     footer                        uint64 D, N, J; 40 bytes: the hash of magic, version, D, N, J and JSON, zero-padded
//
// The sizes are at the end because the file is written in one pass.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "adept/core/hash.h"
#include "adept/data/token_dataset.h"
#include "adept/io/atomic_file.h"

namespace adept::data {

/// Receives tokenized documents one by one.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  /// Ids of the document that end_document() ends; every id is valid.
  virtual void append(std::span<const std::int32_t> ids) = 0;
  /// Ends a document that has ids.
  virtual void end_document(std::int64_t text_bytes) = 0;
  /// Both in one.
  void add(std::span<const std::int32_t> ids, std::int64_t text_bytes) {
    append(ids);
    end_document(text_bytes);
  }
  /// The dataset of all documents so far; called once, last. Sets the documents, bytes and tokens of info.counts.
  virtual TokenDataset finish(DatasetInfo info) = 0;
};

/// Collects a dataset in memory.
class MemorySink : public TokenSink {
 public:
  void append(std::span<const std::int32_t> ids) override;
  void end_document(std::int64_t text_bytes) override;
  TokenDataset finish(DatasetInfo info) override;

 private:
  std::vector<std::vector<std::int32_t>> blocks_;  // of tokens; avoids copies while the dataset grows
  std::vector<std::int64_t> offsets_ = {0};
  std::vector<std::int64_t> bytes_;
  std::int64_t num_tokens_ = 0;
};

/// Streams a dataset to a file, which appears only when it is complete and on disk. Takes 16 bytes of memory per
/// document. Throws DataError if the file cannot be written (a full disk, for example).
class FileSink : public TokenSink {
 public:
  explicit FileSink(std::filesystem::path path);
  void append(std::span<const std::int32_t> ids) override;
  void end_document(std::int64_t text_bytes) override;
  /// The dataset, read back from the file.
  TokenDataset finish(DatasetInfo info) override;

 private:
  void flush();

  std::filesystem::path path_;
  io::AtomicFile file_;
  Hasher hasher_;
  std::vector<std::int32_t> buffer_;
  std::int64_t num_tokens_ = 0;
  std::vector<std::int64_t> offsets_ = {0};
  std::vector<std::int64_t> bytes_;
};

}  // namespace adept::data
