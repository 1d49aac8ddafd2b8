// The documents of a dataset, joined: what packing cuts into sequences.
//
// Legend: D documents, N tokens of the stream.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "adept/data/token_dataset.h"

namespace adept::data {

/// The documents of a dataset in a given order, each followed by EOS, as one stream of tokens that is read at any
/// place. It holds 16 bytes a document and shares the dataset's tokens.
class PackedStream {
 public:
  /// `order` holds indices of documents; without EOS documents follow each other directly. A document whose last id is
  /// EOS already (its tokenizer adds one) gets no second one. Throws ConfigError for an EOS outside the vocabulary.
  PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos, std::vector<std::int64_t> order);
  /// The same in the dataset's own order.
  PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos);

  std::int64_t num_tokens() const { return starts_.back(); }
  const TokenDataset& dataset() const { return dataset_; }
  /// The documents, in the stream's order, (D).
  std::span<const std::int64_t> order() const { return order_; }
  /// Where document order()[i] begins in the stream; (D + 1), the last one is num_tokens().
  std::span<const std::int64_t> starts() const { return starts_; }
  /// Copies tokens [begin, begin + out.size()) of the stream.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;
  /// Where documents start within tokens [begin, begin + size), counted from begin and without its own 0; ascending.
  std::vector<std::int32_t> starts_within(std::int64_t begin, std::int64_t size) const;

 private:
  TokenDataset dataset_;
  std::optional<std::int32_t> eos_;
  std::vector<std::int64_t> order_;   // (D)
  std::vector<std::int64_t> starts_;  // (D + 1): where document order_[i] starts in the stream
};

}  // namespace adept::data
