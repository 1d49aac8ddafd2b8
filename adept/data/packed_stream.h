// The documents of a dataset, joined into the stream that is cut into sequences.
//
// Legend: P parts of documents (whole documents, or what a packing made of them), N tokens of the stream.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "adept/data/packing.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// Tokens in every document that are not trained on.
struct DocumentTag {
  std::vector<std::int32_t> ids{};
  std::int64_t position = 0;  ///< tokens of a document in front of it, such as its BOS

  bool operator==(const DocumentTag&) const = default;
};

/// The documents of a dataset in a given order, each followed by EOS, as one stream of tokens with random access. It
/// takes 16 to 24 bytes per part and shares the dataset's tokens.
class PackedStream {
 public:
  /// `order` contains indices of documents. Without EOS, documents follow each other directly. A document that already
  /// ends in EOS (added by its tokenizer) gets no second one. Throws ConfigError for an EOS outside the vocabulary.
  PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos, std::vector<std::int64_t> order,
               DocumentTag tag = {});
  /// The same in the dataset's own order.
  PackedStream(TokenDataset dataset, std::optional<std::int32_t> eos);

  /// The same tokens as the parts of a layout of starts(). The parts of this stream must be whole documents.
  PackedStream arranged(const PackedLayout& layout) const;

  std::int64_t num_tokens() const { return starts_.back(); }
  const TokenDataset& dataset() const { return dataset_; }
  /// The document of each part, in the stream's order, (P).
  std::span<const std::int64_t> order() const { return order_; }
  /// Where each part starts in the stream; (P + 1), the last one is num_tokens().
  std::span<const std::int64_t> starts() const { return starts_; }
  /// Tokens of a document in the stream: its own, the tag and the EOS that is added.
  std::int64_t document_tokens(std::int64_t document) const;
  /// Copies tokens [begin, begin + out.size()) of the stream.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;
  /// Starts of parts within tokens [begin, begin + size), relative to begin, without 0; ascending.
  std::vector<std::int32_t> starts_within(std::int64_t begin, std::int64_t size) const;
  /// Tokens that are context only within tokens [begin, begin + size), relative to begin; ascending: tags, the
  /// documents' untrained tokens, and an EOS that is added after such a token.
  std::vector<TokenSpan> untrained_within(std::int64_t begin, std::int64_t size) const;
  /// The number of these tokens of a document in the stream.
  std::int64_t untrained_tokens(std::int64_t document) const;
  /// Whether there are such tokens.
  bool has_untrained() const { return !tag_.ids.empty() || dataset_.has_untrained(); }

 private:
  std::size_t part_at(std::int64_t position) const;
  std::int64_t offset(std::size_t part) const { return offsets_.empty() ? 0 : offsets_[part]; }
  std::int64_t tag_position(std::int64_t document) const;
  std::vector<TokenSpan> untrained_of(std::int64_t document) const;
  void read_document(std::int64_t document, std::int64_t begin, std::span<std::int32_t> out) const;

  TokenDataset dataset_;
  std::optional<std::int32_t> eos_;
  DocumentTag tag_;
  std::vector<std::int64_t> order_;    // (P)
  std::vector<std::int64_t> offsets_;  // (P): where the part starts in its document; empty: parts are whole documents
  std::vector<std::int64_t> starts_;   // (P + 1)
};

}  // namespace adept::data
