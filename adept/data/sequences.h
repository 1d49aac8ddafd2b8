// Sequences of tokens to score or to train on, and batches of them.
//
// Legend: B rows of a batch, T columns of a batch.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adept/core/json.h"

#include "adept/data/packed_stream.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// The target of a position that is not scored, as in PyTorch's cross-entropy.
inline constexpr std::int64_t kIgnoreIndex = -100;

/// Tokens that a model reads in one go. Its targets are tokens[first_target ..]; those before are context only.
struct Sequence {
  std::vector<std::int32_t> tokens{};
  std::int64_t first_target = 1;  ///< >= 1: the first token has no context
  std::int32_t source = 0;        ///< index of the source in a mixture
  /// Where in `tokens` another document starts, ascending, > 0: it sees nothing before, and its first token is no
  /// target. Empty: all tokens are one document.
  std::vector<std::int32_t> document_starts{};

  std::int64_t num_targets() const;
  bool operator==(const Sequence&) const = default;
};

/// Tokens of each of its documents.
std::vector<std::int64_t> document_lengths(const Sequence& sequence);

/// How much of a text is measured.
struct SampleSize {
  std::int64_t tokens = 0;         ///< of the text that sequences cover
  std::int64_t all_tokens = 0;     ///< of the dataset, and the EOS tokens added after documents
  std::int64_t documents = 0;      ///< in at least one sequence
  std::int64_t all_documents = 0;  ///< of the dataset
  bool is_sample = false;          ///< max_tokens left something out

  bool operator==(const SampleSize&) const = default;
};
/// "65,536 of 812,345 tokens in 131 of 5,321 documents", or "all 812,345 tokens in 5,321 documents".
std::string describe(const SampleSize& size);
Json to_json(const SampleSize& size);
/// The inverse of to_json. Throws as nlohmann's at() and get() do.
SampleSize sample_size_from_json(const Json& json);

/// Which sequences `max_tokens` takes, for what has to be measured again when the rule changes.
inline constexpr char kSamplingRule[] = "sequences by random_bits(0, kTextSample, index)";

/// What a SequenceSet covers: tokens = targets + no_context + too_short + beyond_limit.
struct SequenceCounts {
  std::int64_t documents = 0;        ///< in at least one sequence
  std::int64_t all_documents = 0;    ///< of the dataset
  std::int64_t bytes = 0;            ///< of their text; of a document that is covered in part, in proportion to it
  std::int64_t covered = 0;          ///< tokens that `bytes` is the text of: those that a sequence has as its own
  std::int64_t tokens = 0;           ///< of the dataset, and the EOS tokens added after documents
  std::int64_t targets = 0;          ///< tokens that are predicted, each once
  std::int64_t no_context = 0;       ///< tokens that begin a sequence, or a document in it that sees no other, and are
                                     ///< predicted nowhere else
  std::int64_t too_short = 0;        ///< tokens that would be a sequence of one token, which is left out
  std::int64_t short_documents = 0;  ///< documents of one token, where there is nothing to predict
  std::int64_t beyond_limit = 0;     ///< tokens left out because of max_tokens

  SampleSize size() const {
    return {.tokens = covered,
            .all_tokens = tokens,
            .documents = documents,
            .all_documents = all_documents,
            .is_sample = beyond_limit > 0};
  }
};

/// How documents are scored, each alone.
struct WindowOptions {
  std::int64_t seq_len = 0;     ///< most tokens that the model reads in one go, >= 2
  std::int64_t stride = 0;      ///< tokens from one window's start to the next, 1 .. seq_len; 0: seq_len (no overlap)
  std::int64_t max_tokens = 0;  ///< of the windows together, a sample of all (SequenceSet); 0: no limit
};

/// How documents are packed.
struct PackOptions {
  std::int64_t seq_len = 0;           ///< tokens of a sequence, >= 2; only the last one may be shorter
  std::optional<std::int32_t> eos{};  ///< added after each document that does not end in it
  bool document_mask = true;          ///< documents of a sequence do not see each other
  std::vector<std::int64_t> order{};  ///< of the documents; empty: the dataset's own
  std::int64_t max_tokens = 0;        ///< of the sequences together, a sample of all (SequenceSet); 0: no limit
};

/// A list of sequences over a dataset, made when asked for: it holds 16 bytes a sequence and a document, no tokens.
///
/// With a limit of tokens that is less than there are it is a sample without replacement. Every sequence has a random
/// rank, which depends on its place among all of them and on nothing else: no seed, model or method. They are taken in
/// the order of their ranks until the limit is reached, the last one cut to it, and listed in the order of the text.
/// The first is taken whole, and one that would be cut to nothing to predict is left out. So every part of a text,
/// sorted or one long document, is represented as it is large, and a larger limit takes all that a smaller one does.
class SequenceSet {
 public:
  std::int64_t size() const { return static_cast<std::int64_t>(entries_.size()); }
  bool empty() const { return entries_.empty(); }
  Sequence operator[](std::int64_t i) const;
  /// Tokens of sequence i.
  std::int64_t length(std::int64_t i) const { return entries_[static_cast<std::size_t>(i)].length; }
  std::vector<std::int64_t> lengths() const;
  /// Of the dataset.
  const std::string& name() const { return stream_.dataset().name(); }
  const SequenceCounts& counts() const { return counts_; }
  /// Tokens of all sequences together; more than those of the text where windows overlap.
  std::int64_t num_input_tokens() const { return num_input_tokens_; }
  /// All of them in memory.
  std::vector<Sequence> to_vector() const;

 private:
  friend class SequenceSetBuilder;
  struct Entry {
    std::int64_t begin;         // in the stream
    std::int32_t length;        // tokens
    std::int32_t first_target;  // >= 1
  };
  SequenceSet(PackedStream stream, bool document_mask) : stream_(std::move(stream)), document_mask_(document_mask) {}

  PackedStream stream_;
  bool document_mask_;
  std::vector<Entry> entries_;
  SequenceCounts counts_;
  std::int64_t num_input_tokens_ = 0;
};

/// Each document alone, exactly its ids, in windows of at most seq_len tokens that start at multiples of stride: the
/// recipe of Hugging Face's "Perplexity of fixed-length models". A token is predicted once, in the first window in
/// which it has context: without overlap the first token of a window is not predicted. The last window ends with its
/// document. Throws ConfigError for a seq_len or a stride out of range.
SequenceSet windows(const TokenDataset& dataset, const WindowOptions& options);

/// As training sees the data: documents joined (PackedStream) and cut every seq_len tokens; with document_mask each
/// document, or the part of it that is in a sequence, sees itself alone, as in windows(). The last sequence is what is
/// left, unless that is a single token, which has nothing to predict and is counted. Throws ConfigError for a
/// seq_len out of range.
SequenceSet packed(const TokenDataset& dataset, const PackOptions& options);

/// Sequences of different lengths side by side, padded on the right.
struct TokenBatch {
  std::int64_t rows = 0;                ///< B
  std::int64_t cols = 0;                ///< T: tokens of the longest sequence
  std::vector<std::int64_t> input_ids;  ///< (B, T)
  std::vector<std::int64_t> targets;    ///< (B, T): the token at t+1, kIgnoreIndex for padding and what is not scored
  std::vector<std::int64_t> lengths;    ///< (B): tokens that are not padding
  /// (B, T): the column where each position's document starts, padding being one of its own; empty: rows are single
  /// documents.
  std::vector<std::int32_t> document_starts;
  std::int64_t num_targets = 0;  ///< of the batch
};

/// `pad_id` is any valid id: with causal attention nothing that is scored sees it.
TokenBatch make_batch(std::span<const Sequence> sequences, std::int32_t pad_id = 0);

/// Groups sequences of similar length, so that little is padded: each group holds indices of at most `max_rows` rows
/// and at most `max_tokens` positions, padding included; a sequence that is longer than that is alone. Longest first
/// (what does not fit in memory fails at once); of equal lengths in the given order.
std::vector<std::vector<std::int64_t>> group_into_batches(std::span<const std::int64_t> lengths, std::int64_t max_rows,
                                                          std::int64_t max_tokens);
std::vector<std::vector<std::int64_t>> group_into_batches(const SequenceSet& sequences, std::int64_t max_rows,
                                                          std::int64_t max_tokens);

}  // namespace adept::data
