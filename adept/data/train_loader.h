// Training data: a mixture of datasets, each shuffled by document, packed, and repeated as needed. Later epochs shuffle
// the packed sequences, so their activations can be reused.
//
// There is no hidden state: the next tokens are a function of the seed and a few counters, so a checkpoint with these
// counters resumes exactly.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/data/mixture.h"
#include "adept/data/packed_stream.h"
#include "adept/data/sequences.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// One part of the mixture.
struct TrainSource {
  TokenDataset dataset;            ///< its name is the source's name
  std::optional<double> weight{};  ///< relative share of the sequences; for all sources or none
  // Limits, of which the first one reached applies.
  std::optional<double> epochs{};            ///< > 0
  std::optional<std::int64_t> max_tokens{};  ///< at least a sequence
};

struct TrainLoaderOptions {
  std::int64_t seq_len = 0;           ///< tokens of a sequence; a source's last one may be shorter
  std::optional<std::int32_t> eos{};  ///< added after each document that does not end with it
  std::uint64_t seed = 0;
  double temperature = 1;     ///< without weights: shares are proportional to size^(1 / temperature); > 0
  bool document_mask = true;  ///< documents of a sequence do not attend to each other
};

/// Gives the sequences of a training run in order.
///
/// An epoch of a source contains all of its documents once, joined by EOS and cut every seq_len tokens, including the
/// tail (packed()); every epoch has the same sequences. Documents are shuffled before packing, and sequences again in
/// each later epoch. A single last token is in no sequence. The mixture follows a fixed schedule: after n sequences in
/// total, a source has provided less than one sequence more or less than in the ideal mixture (mixture.h). Without
/// weights, shares are proportional to the sources' sequences, so after the sum of them each source has completed one
/// epoch. A source that has reached its limit provides nothing more, and the others keep their relative weights.
class TrainLoader {
 public:
  /// Throws ConfigError, with all problems, for: no sources, two of one name, a source without a sequence of at least
  /// two tokens, weights for some sources only, weights or limits that are not positive and finite or allow no
  /// sequence, seq_len, EOS or temperature out of range.
  TrainLoader(std::vector<TrainSource> sources, TrainLoaderOptions options);

  /// The next sequences of the run, not beyond max_sequences(); `source` is the index of each one's source.
  std::vector<Sequence> next_step(std::int64_t num_sequences);

  std::int64_t num_sources() const { return static_cast<std::int64_t>(sources_.size()); }
  const std::string& source_name(std::int64_t source) const { return at(source).dataset.name(); }
  /// The share of a source in the sequences until a source has reached its limit, 0 to 1.
  double share(std::int64_t source) const { return mixture_.share(static_cast<std::size_t>(source)); }
  /// What a source provides in a run of this many sequences in total, more or less a sequence.
  double expected(std::int64_t source, std::int64_t num_sequences) const;
  std::int64_t sequences_per_epoch(std::int64_t source) const { return at(source).sequences_per_epoch; }
  /// The smallest total number of sequences after which the first source has completed `epochs` epochs. Throws
  /// ConfigError for a number that is not positive and finite, is too large to count, or exceeds the source's limit.
  std::int64_t sequences_for_epochs(double epochs) const;

  /// All that the sources' limits allow; nothing if one has none.
  std::optional<std::int64_t> max_sequences() const;

  /// Whether a source provides more than one epoch in a run of this many sequences in total.
  bool repeats_within(std::int64_t source, std::int64_t num_sequences) const;

  /// Sequences provided so far: in total, and by one source.
  std::int64_t num_sequences() const { return total_; }
  std::int64_t num_sequences(std::int64_t source) const { return at(source).count; }
  /// Tokens provided so far by a source.
  std::int64_t num_tokens(std::int64_t source) const;
  /// Completed epochs of a source, including the fraction of the current one.
  double epochs(std::int64_t source) const;

  /// The position, as JSON, keyed by the names of the sources.
  Json state() const;
  /// Continues from a position. Throws ConfigError with every difference if the sources, their data or weights, the
  /// seed, the sequence length or EOS differ from the state's; DataError if it is not a state. The loader is then
  /// unchanged. `where` names the state in errors.
  void load_state(const Json& state, const std::string& where);

  /// A table of the sources: documents, tokens, sequences of an epoch and the share of each source.
  std::string format_mixture() const;

 private:
  struct Source {
    TokenDataset dataset;
    PackedStream stream;
    std::int64_t epoch = 0;
    std::vector<std::int64_t> order{};  // of the sequences in the epoch `epoch`; empty: as in the stream
    std::int64_t sequences_per_epoch = 0;
    std::int64_t limit = MixturePart::kNoLimit;  // of `count`
    std::int64_t count = 0;
  };

  const Source& at(std::int64_t source) const { return sources_.at(static_cast<std::size_t>(source)); }
  void set_mixture(const std::vector<TrainSource>& given);
  PackedStream make_stream(const TokenDataset& dataset) const;
  std::vector<std::int64_t> sequence_order(const Source& source, std::int64_t epoch) const;
  std::int64_t tokens_per_epoch(const Source& source) const;
  std::size_t pick_source() const;
  Sequence next_of(std::size_t source);
  std::string differences(const Json& state) const;

  TrainLoaderOptions options_;
  std::vector<Source> sources_;
  Mixture mixture_;
  std::vector<std::size_t> by_name_;
  std::int64_t total_ = 0;
};

}  // namespace adept::data
