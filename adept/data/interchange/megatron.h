// Writes datasets of Megatron-Core (IndexedDataset), little endian:
//
//     PREFIX.bin   the ids of all documents, each with EOS at its end (one, also if the tokenizer ends texts with it)
//     PREFIX.idx   "MMIDIDX" and two zero bytes, uint64 1 (version), uint8 dtype, uint64 D (sequences), uint64 D + 1,
//                  D x int32 lengths, D x int64 byte offsets in the .bin, (D + 1) x int64: documents in sequences
//
// The dtype is 8 (uint16) for vocabularies below 65,500 ids, else 4 (int32). A sequence is a document.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "adept/data/token_sink.h"
#include "adept/io/atomic_file.h"

namespace adept::data {

class MegatronWriter : public TokenSink {
 public:
  /// Throws DataError, here and below, if a file cannot be written.
  MegatronWriter(const std::filesystem::path& prefix, std::int64_t vocab_size, std::int32_t eos);
  void append(std::span<const std::int32_t> ids) override;
  /// Refuses untrained tokens.
  void end_document(std::int64_t text_bytes, const Untrained& untrained, PlaceInSource place) override;
  /// Both files appear.
  void finish();

 private:
  std::filesystem::path idx_path_;
  io::AtomicFile bin_, idx_;
  bool is_narrow_;
  std::int32_t eos_;
  std::int32_t last_id_ = -1;
  std::vector<std::byte> buffer_;
  std::int64_t num_ids_ = 0;  // of the current document
  std::vector<std::int32_t> lengths_;
};

}  // namespace adept::data
