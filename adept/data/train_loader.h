// Training data: a mixture of datasets, each shuffled by document, packed, and repeated as needed. Every epoch has the
// same sequences in another order, so their activations can be reused.
//
// There is no hidden state: the next tokens are a function of the seed and a few counters, so a checkpoint with these
// counters resumes exactly.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
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
  TokenDataset dataset;                    ///< its name is the source's name
  std::optional<WeightSchedule> weight{};  ///< relative share of the tokens; for all sources or none
  DocumentTag tag{};
  std::vector<std::int64_t> excluded{};  ///< documents that are not read, ascending
  // Limits, of which the first one reached applies.
  std::optional<double> epochs{};            ///< > 0
  std::optional<std::int64_t> max_tokens{};  ///< at least a sequence
};

struct TrainLoaderOptions {
  std::int64_t seq_len = 0;           ///< tokens of a sequence; a source's last one may be shorter
  std::optional<std::int32_t> eos{};  ///< added after each document that does not end with it
  std::uint64_t seed = 0;
  Packing packing = Packing::kConcat;
  double temperature = 1;              ///< without weights: shares are proportional to tokens^(1 / temperature); > 0
  bool document_mask = kDocumentMask;  ///< documents of a sequence do not attend to each other
};

/// Whether a training may continue with another mixture.
enum class OtherMixture { kRefused, kAllowed };

/// Weights that follow from size: proportional to tokens^(1 / temperature). Throws ConfigError, with the temperature,
/// if a source would get less than a quadrillionth of the tokens.
std::vector<double> weights_by_size(std::span<const TokenDataset> datasets, std::span<const double> tokens,
                                    double temperature);

/// What a source of an earlier mixture has provided.
struct RemovedSource {
  std::string name;
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;
  double epochs = 0;
};

/// Gives the sequences of a training run in order.
///
/// An epoch of a source contains all of its documents once (packed()); every epoch has the same sequences. Documents
/// are shuffled before packing, and sequences again in each epoch (concat: from the second one on). A sequence of a
/// single token is left out. The mixture follows a fixed schedule: after n sequences in total, a source has provided
/// less than one sequence more or less than in the ideal mixture (mixture.h). A weight is a share of the tokens;
/// sources whose sequences are shorter provide more of them. Without weights, shares are proportional to the sources'
/// tokens, so each source completes its first epoch at the same time. A source that has reached its limit provides
/// nothing more, and the others keep their relative weights.
class TrainLoader {
 public:
  /// Throws ConfigError, with all problems, for: no sources, two of one name, a source without a sequence of at least
  /// two tokens, weights for some sources only, weights or limits that are not positive and finite or allow no
  /// sequence, a tag that fills a sequence, seq_len, EOS or temperature out of range.
  TrainLoader(std::vector<TrainSource> sources, TrainLoaderOptions options);

  /// A sequence of an epoch of a source.
  struct Place {
    std::int32_t source = 0;
    std::int64_t sequence = 0;

    bool operator==(const Place&) const = default;
  };

  /// The next sequences of the run, not beyond max_sequences(); `source` is the index of each one's source.
  std::vector<Sequence> next_step(std::int64_t num_sequences);
  /// The same in parts: where the sequences after the next `skip` are, without a change of the position; reading one,
  /// also while another thread calls the other functions, except load_state(); and moving the position.
  std::vector<Place> upcoming(std::int64_t num_sequences, std::int64_t skip = 0);
  Sequence read(const Place& place) const;
  void advance(std::span<const Place> places);

  std::int64_t num_sources() const { return static_cast<std::int64_t>(sources_.size()); }
  const std::string& source_name(std::int64_t source) const { return at(source).dataset.name(); }
  /// Sets where weights that change are those of progress 0 and 1: from the first sequence of the training to its last.
  /// If these differ from those of the state that was loaded, the mixture continues from what was given so far. Without
  /// such weights, or before the call, the weights are those of progress 0.
  void plan(std::int64_t first, std::int64_t last);

  /// Whether any weight changes.
  bool has_schedule() const;
  /// The share of a source in the tokens at a progress of the training, 0 to 1, before any source reaches its limit.
  double share(std::int64_t source, double progress = 0) const;
  /// What a source provides in a run of this many sequences in total, more or less a sequence.
  double expected(std::int64_t source, std::int64_t num_sequences) const;
  /// Of an epoch of a source.
  const SequenceCounts& counts(std::int64_t source) const { return at(source).sequences.counts(); }
  std::int64_t sequences_per_epoch(std::int64_t source) const { return at(source).sequences.size(); }
  /// The share of a source's documents that are in several sequences, and of padding in its sequences if each is padded
  /// to seq_len; 0 to 1.
  double split_share(std::int64_t source) const;
  double padding_share(std::int64_t source) const;
  /// The smallest total number of sequences after which the first source has completed `epochs` epochs, in a training
  /// that ends there and began at `first`. Throws ConfigError for a number that is not positive and finite, is too
  /// large to count, or exceeds the source's limit.
  std::int64_t sequences_for_epochs(double epochs, std::int64_t first = 0) const;

  /// All that the sources' limits allow, and that of a source; nothing without limits.
  std::optional<std::int64_t> max_sequences() const;
  std::optional<std::int64_t> max_sequences(std::int64_t source) const;

  /// Whether a source provides more than one epoch in a run of this many sequences in total.
  bool repeats_within(std::int64_t source, std::int64_t num_sequences) const;

  /// Sequences provided so far: in total, and by one source.
  std::int64_t num_sequences() const { return total_; }
  std::int64_t num_sequences(std::int64_t source) const { return at(source).count; }
  /// Tokens provided so far by a source.
  std::int64_t num_tokens(std::int64_t source) const { return at(source).tokens; }
  /// Completed epochs of a source, including the fraction of the current one.
  double epochs(std::int64_t source) const;
  /// Sources of earlier mixtures that are not in this one.
  std::vector<RemovedSource> removed() const;

  /// The position, as JSON, keyed by the names of the sources.
  Json state() const;
  /// Continues from a position. Throws ConfigError with every difference if the sources, their data or weights, the
  /// seed, the sequence length, EOS or the packing differ from the state's; DataError if it is not a state. The loader
  /// is then unchanged. `where` names the state in errors.
  ///
  /// With kAllowed, sources and weights may differ, but not the text of a source: each continues after what it has
  /// given, also one that was removed in between, and the new mixture holds from here on.
  void load_state(const Json& state, const std::string& where, OtherMixture other = OtherMixture::kRefused);

 private:
  struct Source {
    TokenDataset dataset;
    std::string fingerprint;                                     // of what it gives
    SequenceSet sequences;                                       // of an epoch
    std::int64_t tokens_per_epoch = 0;                           // of these
    std::map<std::int64_t, std::vector<std::int64_t>> orders{};  // of the sequences in recent epochs; empty: as packed
    WeightSchedule weight{};                                     // of tokens
    MixturePart part{};                                          // of sequences; its limit is of `count`
    std::int64_t count = 0;
    std::int64_t count_at_anchor = 0;
    std::int64_t tokens = 0;  // of the sequences that were counted

    // Where the i-th sequence of an epoch is.
    static std::int64_t place(const std::vector<std::int64_t>& of_epoch, std::int64_t i) {
      return of_epoch.empty() ? i : of_epoch[static_cast<std::size_t>(i)];
    }
    std::int64_t length(const std::vector<std::int64_t>& of_epoch, std::int64_t i) const {
      return sequences.length(place(of_epoch, i));
    }
  };

  const Source& at(std::int64_t source) const { return sources_.at(static_cast<std::size_t>(source)); }
  void set_parts(const std::vector<TrainSource>& given);
  void set_anchor();
  Mixture make_mixture(MixtureSpan span, bool from_here) const;
  std::optional<std::int64_t> shortest(std::int64_t amount, std::int64_t first, bool from_here) const;
  Json share_json(std::size_t source) const;
  Source make_source(const TrainSource& given) const;
  std::int64_t limit_of(const TrainSource& given, const Source& source) const;
  std::vector<std::int64_t> sequence_order(const Source& source, std::int64_t epoch) const;
  std::size_t pick_source(std::span<const std::int64_t> counts, std::int64_t total) const;
  std::int64_t sequence_at(Source& source, std::int64_t count) const;
  std::vector<std::string> differences(const Json& state, OtherMixture other) const;

  TrainLoaderOptions options_;
  std::vector<Source> sources_;
  MixtureSpan span_;
  Mixture mixture_;  // from the anchor on
  std::vector<std::size_t> by_name_;
  Json removed_ = Json::object();  // sources of earlier mixtures: their entries of the state
  std::int64_t total_at_anchor_ = 0;
  std::int64_t total_ = 0;
};

}  // namespace adept::data
