// Tokenized documents: in memory (token_sink.h), or in a store on disk (store/token_store.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adept/data/source_counts.h"

namespace adept::data {

/// The inputs of a dataset, and what was read of them.
struct DatasetInfo {
  std::string name{};                       ///< of the source
  std::int64_t vocab_size = 0;              ///< every id is in 0 .. vocab_size-1
  std::optional<std::int32_t> eos{};        ///< of the tokenizer, if it is known
  std::string source_fingerprint{};         ///< of the files and options: source_fingerprint()
  std::string tokenizer_fingerprint{};      ///< of what turns text into ids
  std::string vocabulary_fingerprint{};     ///< of what the ids mean: vocabulary_fingerprint(); empty: not known
  std::string content_hash{};               ///< of the files' bytes: content_hash(); empty: not hashed
  SourceCounts counts{};                    ///< documents and tokens are those of the dataset
  std::vector<SkippedRecord> skipped = {};  ///< the first kMaxListedSkips records that were skipped
};

/// Tokens [begin, end) of a document, or of a sequence.
struct TokenSpan {
  std::int32_t begin = 0;
  std::int32_t end = 0;

  bool operator==(const TokenSpan&) const = default;
};

/// Tokens of a document that are context only: not trained on and, in held-out text, not measured.
struct Untrained {
  std::vector<TokenSpan> spans{};  ///< ascending, not empty, at least one token between two
  std::int64_t bytes = 0;          ///< of their text, of the document's

  bool empty() const { return spans.empty(); }
  bool operator==(const Untrained&) const = default;
};
/// Whether `untrained` is as described, in a document of this many tokens and bytes.
bool is_valid(const Untrained& untrained, std::int64_t tokens, std::int64_t bytes);

/// Where the ids of a dataset are. Immutable; safe to use from several threads.
class TokenStorage {
 public:
  virtual ~TokenStorage() = default;
  /// As the functions of TokenDataset; `i` is a document of the dataset, and the ids to read exist.
  virtual std::int64_t document_tokens(std::int64_t i) const = 0;
  virtual std::int64_t document_bytes(std::int64_t i) const = 0;
  virtual std::int32_t last_token(std::int64_t i) const = 0;
  virtual Untrained untrained(std::int64_t i) const = 0;
  virtual bool has_untrained() const = 0;
  virtual void read(std::int64_t i, std::int64_t begin, std::span<std::int32_t> out) const = 0;
  virtual void verify() const {}
  virtual std::filesystem::path folder() const { return {}; }
};

/// Documents as token ids. Immutable, cheap to copy (copies share the storage), safe to read from several threads.
/// No document is empty. Functions that read a store throw DataError for a part that is damaged, the first time that
/// the part is read.
class TokenDataset {
 public:
  /// Takes documents from memory; `document_bytes` are the lengths of their UTF-8 text, and `untrained`, unless empty,
  /// has an entry for each. Sets the counts of documents,
  /// bytes and tokens in `info`. Throws DataError for an id outside the vocabulary; an empty document is a bug.
  TokenDataset(DatasetInfo info, std::span<const std::vector<std::int32_t>> documents,
               std::span<const std::int64_t> document_bytes, std::span<const Untrained> untrained = {});
  /// For what makes datasets. The counts in `info` are those of the storage.
  TokenDataset(DatasetInfo info, std::string fingerprint, std::shared_ptr<const TokenStorage> storage);

  /// The same documents as a source of another name.
  TokenDataset renamed(const std::string& name) const;

  const DatasetInfo& info() const { return data_->info; }
  const std::string& name() const { return data_->info.name; }
  const SourceCounts& counts() const { return data_->info.counts; }
  std::int64_t vocab_size() const { return data_->info.vocab_size; }
  /// Hash of the ids, the documents' boundaries, their byte lengths and untrained tokens: the same wherever and however
  /// they are stored.
  const std::string& fingerprint() const { return data_->fingerprint; }

  std::int64_t num_documents() const { return data_->info.counts.documents; }
  std::int64_t num_tokens() const { return data_->info.counts.tokens; }
  /// The number of ids of document i, at least 1.
  std::int64_t document_tokens(std::int64_t i) const { return data_->storage->document_tokens(i); }
  /// Bytes of the text of document i, UTF-8.
  std::int64_t document_bytes(std::int64_t i) const { return data_->storage->document_bytes(i); }
  /// The last id of document i. Like the two above, it does not read the other ids.
  std::int32_t last_token(std::int64_t i) const { return data_->storage->last_token(i); }
  /// Tokens of document i that are context only. Does not read the ids either.
  Untrained untrained(std::int64_t i) const { return data_->storage->untrained(i); }
  /// Whether a document has such tokens.
  bool has_untrained() const { return data_->storage->has_untrained(); }
  /// Copies ids [begin, begin + out.size()) of document i.
  void read(std::int64_t i, std::int64_t begin, std::span<std::int32_t> out) const;
  /// Reads all of a store and checks it against its hashes; those in memory need none. Throws InterruptedError after a
  /// signal.
  void verify() const { data_->storage->verify(); }
  /// Of the store; empty for those in memory.
  std::filesystem::path folder() const { return data_->storage->folder(); }

 private:
  struct Data {
    DatasetInfo info;
    std::string fingerprint;
    std::shared_ptr<const TokenStorage> storage;
  };
  std::shared_ptr<const Data> data_;
};

}  // namespace adept::data
