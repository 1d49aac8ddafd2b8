// Scores layers with the methods of importance.h, and measures the confidence of the scores.
//
// Legend: L layers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adept/core/progress.h"
#include "adept/method/importance.h"

namespace adept::method {

/// What to measure.
struct ProbeOptions {
  std::vector<std::string> methods = {"mask_out"};
  int num_lowest = 4;          ///< k, for the stability; at most L minus the excluded layers
  std::vector<int> exclude{};  ///< layers that are never among the k lowest
  /// Stop once the k lowest layers of the first method are separated from the rest: the same in 1 - 0.05 / rounds of
  /// the resamples (all rounds share the error of 5 %, Bonferroni).
  bool until_separated = false;
};

/// The text to measure on; it must outlive this.
struct ProbeText {
  std::span<const std::vector<ProbeBatch>> general;  ///< in rounds: the scores are checked after each
  std::span<const ProbeBatch> domain{};              ///< for methods that need it

  ProbeText(std::span<const std::vector<ProbeBatch>> rounds, std::span<const ProbeBatch> domain_text = {})
      : general(rounds), domain(domain_text) {}
  ProbeText(const std::vector<std::vector<ProbeBatch>>& rounds) : general(rounds) {}
};

/// Progress of a probe.
struct ProbeState {
  std::int64_t batches = 0;  ///< measured batches of the general text, in order
  ProbeSamples samples;      ///< of these
};

/// Returns one Importance per method, in the requested order, with the fewest passes: one backward pass serves all
/// gradient-based methods. Only `until_separated` requires several rounds. Continues from `state`, which after an
/// InterruptedError contains the progress for a later call with the same result, except of FromTexts methods, which
/// start again. The processes of `group` divide the batches and their pieces (Pass); each gets the result, which does
/// not depend on how many they are; where they share the decoder's layers, the methods need one pass at most (as one
/// method does). Throws ConfigError for an unknown method or num_lowest, DataError if no token is
/// predicted, NonFiniteError if a score or the model's loss is not finite.
std::vector<Importance> probe(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options,
                              Progress& progress, ProbeState& state, dist::ProcessGroup& group = dist::world());
std::vector<Importance> probe(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options,
                              Progress& progress, dist::ProcessGroup& group = dist::world());
/// No method of these has samples, and therefore no progress that ProbeState could keep.
bool is_from_texts_alone(const ProbeOptions& options);
/// Work that `probe` reports to the progress line.
std::int64_t probe_work(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options);

/// Scores, intervals and stability from the samples of a FromSequences method. Throws NonFiniteError for a score that
/// is not finite.
Importance summarize(const ProbeSamples& samples, const ImportanceMethod& method, int num_lowest,
                     const std::vector<int>& exclude = {});

}  // namespace adept::method
