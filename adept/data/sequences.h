// Sequences of tokens for scoring and training, and batches of them.
//
// Legend: B rows of a batch, T columns of a batch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adept/core/json.h"

#include "adept/data/options.h"
#include "adept/data/packed_stream.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// Target of positions that are not scored, as in PyTorch's cross-entropy.
inline constexpr std::int64_t kIgnoreIndex = -100;

/// Tokens of one forward pass. The targets are tokens[first_target ..]; earlier tokens are context only.
struct Sequence {
  std::vector<std::int32_t> tokens{};
  std::int64_t first_target = 1;  ///< >= 1: the first token has no context
  std::int32_t source = 0;        ///< index of the source in a mixture
  /// Positions in `tokens` where another document starts, ascending, > 0. A document does not attend to earlier tokens,
  /// and its first token is not a target. Empty: all tokens are one document.
  std::vector<std::int32_t> document_starts{};
  std::vector<TokenSpan> untrained{};  ///< tokens that are context only, ascending

  std::int64_t num_targets() const;
  bool operator==(const Sequence&) const = default;
};

/// Number of tokens of each document.
std::vector<std::int64_t> document_lengths(const Sequence& sequence);

/// The measured part of a text.
struct SampleSize {
  std::int64_t tokens = 0;         ///< of the text, covered by sequences
  std::int64_t all_tokens = 0;     ///< of the dataset, including EOS tokens added after documents
  std::int64_t documents = 0;      ///< in at least one sequence
  std::int64_t all_documents = 0;  ///< of the dataset
  bool is_sample = false;          ///< max_tokens excluded something

  bool operator==(const SampleSize&) const = default;
};
/// "65,536 of 812,345 tokens in 131 of 5,321 documents", or "all 812,345 tokens in 5,321 documents".
std::string describe(const SampleSize& size);
Json to_json(const SampleSize& size);
/// The inverse of to_json. Throws like nlohmann's at() and get().
SampleSize sample_size_from_json(const Json& json);

/// Version of the rule by which `max_tokens` samples; results are measured again when it changes.
inline constexpr char kSamplingRule[] = "sequences by random_bits(0, kTextSample, index)";

/// Coverage of a SequenceSet: tokens = targets + no_context + untrained + too_short + beyond_limit.
struct SequenceCounts {
  std::int64_t documents = 0;        ///< in at least one sequence
  std::int64_t all_documents = 0;    ///< of the dataset
  std::int64_t split_documents = 0;  ///< of these, those in several sequences
  std::int64_t covered = 0;          ///< tokens in the sequences, each counted once
  std::int64_t measured = 0;         ///< of these, those that are not untrained
  std::int64_t bytes = 0;            ///< of their text; proportional for partly covered documents
  std::int64_t tokens = 0;           ///< of the dataset, including EOS tokens added after documents
  std::int64_t targets = 0;          ///< tokens that are predicted, each once
  std::int64_t no_context = 0;       ///< first tokens of a sequence, or of a masked document in it,
                                     ///< that are not predicted elsewhere
  std::int64_t untrained = 0;        ///< context only (TokenDataset::untrained, a tag), also in sequences left out
  std::int64_t too_short = 0;        ///< tokens that would form a sequence of one token, which is skipped
  std::int64_t short_documents = 0;  ///< documents of one token, with nothing to predict
  std::int64_t beyond_limit = 0;     ///< tokens excluded by max_tokens

  SampleSize size() const {
    return {.tokens = covered,
            .all_tokens = tokens,
            .documents = documents,
            .all_documents = all_documents,
            .is_sample = beyond_limit > 0};
  }
};

/// Options for scoring each document alone.
struct WindowOptions {
  std::int64_t seq_len = 0;     ///< maximum tokens of a window, >= 2
  std::int64_t stride = 0;      ///< tokens between the starts of windows, 1 .. seq_len; 0: seq_len (no overlap)
  std::int64_t max_tokens = 0;  ///< total of all windows, taken as a sample (SequenceSet); 0: no limit
};

/// Options for packing documents.
struct PackOptions {
  std::int64_t seq_len = 0;            ///< tokens of a sequence, >= 2; only the last one may be shorter
  std::optional<std::int32_t> eos{};   ///< added after each document that does not end with it
  bool document_mask = kDocumentMask;  ///< documents of a sequence do not attend to each other
  Packing packing = Packing::kConcat;
  DocumentTag tag{};                                 ///< in every document
  std::optional<std::vector<std::int64_t>> order{};  ///< the documents to read; unset: all, in the dataset's order
  std::int64_t max_tokens = 0;  ///< total of all sequences, taken as a sample (SequenceSet); 0: no limit
};

/// A list of sequences over a dataset, created on access. It takes 16 bytes per sequence and document and stores no
/// tokens. Immutable; copies share the list. A sequence of untrained tokens without a target is left out.
///
/// If a token limit applies, the list is a sample without replacement. Every sequence has a random rank that depends
/// only on its position among all sequences, not on a seed, model or method. Sequences are taken by rank until the
/// limit is reached, the last one cut to it, and listed in the order of the text. The first is taken whole; one that
/// would be cut to nothing to predict is skipped. Every part of a text, whether sorted or one long document, is
/// therefore represented in proportion to its size, and a larger sample contains a smaller one.
class SequenceSet {
 public:
  std::int64_t size() const { return std::ssize(list_->entries); }
  bool empty() const { return list_->entries.empty(); }
  Sequence operator[](std::int64_t i) const;
  /// Tokens of sequence i.
  std::int64_t length(std::int64_t i) const { return list_->entries[static_cast<std::size_t>(i)].length; }
  std::vector<std::int64_t> lengths() const;
  /// Of the dataset.
  const std::string& name() const { return list_->stream.dataset().name(); }
  const SequenceCounts& counts() const { return list_->counts; }
  /// All of them in memory.
  std::vector<Sequence> to_vector() const;

 private:
  friend class SequenceSetBuilder;
  struct Entry {
    std::int64_t begin;         // in the stream
    std::int32_t length;        // tokens
    std::int32_t first_target;  // >= 1
  };
  struct List {
    PackedStream stream;
    bool document_mask;
    std::vector<Entry> entries{};
    SequenceCounts counts{};
  };
  explicit SequenceSet(List list) : list_(std::make_shared<const List>(std::move(list))) {}

  std::shared_ptr<const List> list_;
};

/// Each document alone, exactly its ids, in windows of at most seq_len tokens that start at multiples of stride: the
/// recipe of Hugging Face's "Perplexity of fixed-length models". A token is predicted once, in the first window in
/// which it has context: without overlap the first token of a window is not predicted. The last window ends with its
/// document. Throws ConfigError for a seq_len or a stride out of range.
SequenceSet windows(const TokenDataset& dataset, const WindowOptions& options);

/// As in training: documents joined (PackedStream), arranged (pack()) and cut every seq_len tokens. With document_mask,
/// each document (or its part in a sequence) attends only to itself, as in windows(). The last sequence (with best_fit,
/// every one) may be shorter; one of a single token has nothing to predict, and is left out and counted. Throws
/// ConfigError for a seq_len out of range.
SequenceSet packed(const TokenDataset& dataset, const PackOptions& options);

/// Sequences of different lengths in one batch, padded on the right.
struct TokenBatch {
  std::int64_t rows = 0;                ///< B
  std::int64_t cols = 0;                ///< T: tokens of the longest sequence
  std::vector<std::int64_t> input_ids;  ///< (B, T)
  std::vector<std::int64_t> targets;    ///< (B, T): the token at t+1; kIgnoreIndex for padding and unscored positions
  std::vector<std::int64_t> lengths;    ///< (B): number of tokens that are not padding
  /// (B, T): the column where each position's document starts; padding counts as its own document. Empty: each row is
  /// one document.
  std::vector<std::int32_t> document_starts;
  std::int64_t num_targets = 0;  ///< of the batch
};

/// `pad_id` is any valid id: with causal attention, no scored position attends to it.
TokenBatch make_batch(std::span<const Sequence> sequences, std::int32_t pad_id = 0);

/// Groups sequences of similar length to reduce padding. Each group has at most `max_rows` rows and `max_tokens`
/// positions including padding; a longer sequence is alone. Longest first (so a lack of memory shows at once); equal
/// lengths keep their order.
std::vector<std::vector<std::int64_t>> group_into_batches(std::span<const std::int64_t> lengths, std::int64_t max_rows,
                                                          std::int64_t max_tokens);
std::vector<std::vector<std::int64_t>> group_into_batches(const SequenceSet& sequences, std::int64_t max_rows,
                                                          std::int64_t max_tokens);

}  // namespace adept::data
