// Receive tokenized documents one by one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/function_ref.h"
#include "adept/core/hash.h"
#include "adept/core/json.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// The fingerprint of documents in order. It does not depend on how they are stored, and can be continued later.
class DocumentHash {
 public:
  DocumentHash();
  /// Continues after the documents whose hash was `state`. Throws DataError for a text that is no hash.
  explicit DocumentHash(const std::string& state);

  /// Ids of the document that end_document() ends.
  void append(std::span<const std::int32_t> ids);
  void end_document(std::int64_t text_bytes, const Untrained& untrained);
  /// Of all documents that were ended.
  std::string state() const { return to_string(state_); }

 private:
  Hasher document_;
  std::int64_t num_ids_ = 0;
  HashValue state_;
};

/// Describes how the reader goes on after the current document, for a sink that may be continued by another process.
using PlaceInSource = FunctionRef<Json()>;

class TokenSink {
 public:
  virtual ~TokenSink() = default;
  /// Ids of the document that end_document() ends; every id is valid.
  virtual void append(std::span<const std::int32_t> ids) = 0;
  /// Ends a document that has ids. A sink that cannot keep untrained tokens throws DataError for them.
  virtual void end_document(std::int64_t text_bytes, const Untrained& untrained, PlaceInSource place) = 0;
  /// Whether the result is kept with a hash of the source's bytes, for which its files are read again.
  virtual bool keeps_content_hash() const { return false; }
  /// Both in one, where no place is needed.
  void add(std::span<const std::int32_t> ids, std::int64_t text_bytes, const Untrained& untrained = {});
};

/// Throws DataError for untrained tokens, which `format` ("the format of Megatron-Core") cannot keep.
void refuse_untrained(const Untrained& untrained, std::string_view format);

/// Collects a dataset in memory.
class MemorySink : public TokenSink {
 public:
  void append(std::span<const std::int32_t> ids) override;
  void end_document(std::int64_t text_bytes, const Untrained& untrained, PlaceInSource place) override;
  /// The dataset of all documents so far; called once, last. Sets the documents, bytes and tokens of info.counts.
  TokenDataset finish(DatasetInfo info);

 private:
  DocumentHash hash_;
  std::vector<std::vector<std::int32_t>> blocks_;  // of tokens; avoids copies while the dataset grows
  std::vector<std::int64_t> offsets_ = {0};
  std::vector<std::int64_t> bytes_;
  std::vector<TokenSpan> spans_;  // of all documents
  std::vector<std::int64_t> span_offsets_ = {0}, untrained_bytes_;
  std::int64_t num_tokens_ = 0;
};

}  // namespace adept::data
