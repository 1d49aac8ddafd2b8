// Tokenized documents: in memory, or in a file that is mapped.
//
// Legend: D documents, N tokens of all documents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adept/data/source_counts.h"

namespace adept::data {

/// The inputs of a dataset.
struct DatasetInfo {
  std::string name{};                   ///< of the source
  std::int64_t vocab_size = 0;          ///< every id is in 0 .. vocab_size-1
  std::string source_fingerprint{};     ///< of the text: source_fingerprint()
  std::string tokenizer_fingerprint{};  ///< of the tokenizer
  SourceCounts counts{};
};

/// Documents as token ids. Immutable, cheap to copy (copies share the storage), safe to read from several threads.
/// No document is empty.
class TokenDataset {
 public:
  /// Takes documents from memory; `document_bytes` are the lengths of their UTF-8 text. Sets the counts of documents,
  /// bytes and tokens in `info`. Throws DataError for an id outside the vocabulary; an empty document is a bug.
  TokenDataset(DatasetInfo info, std::span<const std::vector<std::int32_t>> documents,
               std::span<const std::int64_t> document_bytes);

  /// Maps a file that a FileSink wrote. Reads it once to verify sizes, content hash and ids.
  /// Throws DataError if the file is missing, damaged, cut short, or of another version or kind.
  static TokenDataset open(const std::filesystem::path& path);

  const DatasetInfo& info() const { return data_->info; }
  const std::string& name() const { return data_->info.name; }
  const SourceCounts& counts() const { return data_->info.counts; }
  std::int64_t vocab_size() const { return data_->info.vocab_size; }
  /// Hash of the ids, the documents' boundaries and their byte lengths.
  const std::string& fingerprint() const { return data_->fingerprint; }

  std::int64_t num_documents() const { return static_cast<std::int64_t>(data_->bytes.size()); }
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(data_->tokens.size()); }
  /// The number of ids of document i, at least 1.
  std::int64_t document_tokens(std::int64_t i) const;
  /// Bytes of the text of document i, UTF-8.
  std::int64_t document_bytes(std::int64_t i) const { return data_->bytes[static_cast<std::size_t>(i)]; }
  /// The last id of document i. Like the two above, it does not read the other ids.
  std::int32_t last_token(std::int64_t i) const;
  /// Copies ids [begin, begin + out.size()) of document i.
  void read(std::int64_t i, std::int64_t begin, std::span<std::int32_t> out) const;

 private:
  friend class MemorySink;
  struct Data {
    DatasetInfo info;
    std::string fingerprint;
    std::span<const std::int32_t> tokens;
    std::span<const std::int64_t> offsets;
    std::span<const std::int64_t> bytes;
    std::shared_ptr<const void> owner;  ///< owner of the spans' memory
  };
  explicit TokenDataset(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

  std::shared_ptr<const Data> data_;
};

}  // namespace adept::data
