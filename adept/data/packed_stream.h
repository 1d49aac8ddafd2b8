// The documents of a dataset, joined into the stream that packing cuts into sequences.
//
// Legend: D documents, N tokens of the stream.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "adept/data/token_dataset.h"

namespace adept::data {

/// The documents of a dataset in a given order, each followed by EOS, as one stream of tokens with random access. It
/// takes 16 bytes per document and shares the dataset's tokens.
class PackedStream {
 public:
  /// `order` contains indices of documents. Without EOS, documents follow each other directly. A document that already
  /// ends in EOS (added by its tokenizer) gets no second one. Throws ConfigError for an EOS outside the vocabulary.
  PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos, std::vector<std::int64_t> order);
  /// The same in the dataset's own order.
  PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos);

  std::int64_t num_tokens() const { return starts_.back(); }
  const TokenDataset& dataset() const { return dataset_; }
  /// The documents, in the stream's order, (D).
  std::span<const std::int64_t> order() const { return order_; }
  /// Start of document order()[i] in the stream; (D + 1), the last one is num_tokens().
  std::span<const std::int64_t> starts() const { return starts_; }
  /// Copies tokens [begin, begin + out.size()) of the stream.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;
  /// Starts of documents within tokens [begin, begin + size), relative to begin, without 0; ascending.
  std::vector<std::int32_t> starts_within(std::int64_t begin, std::int64_t size) const;

 private:
  TokenDataset dataset_;
  std::optional<std::int32_t> eos_;
  std::vector<std::int64_t> order_;   // (D)
  std::vector<std::int64_t> starts_;  // (D + 1): where document order_[i] starts in the stream
};

}  // namespace adept::data
