// Scores of layers by any method of importance.h, with how certain they are.
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
  int num_lowest = 4;          ///< k, for the stability; at most L less those excluded
  std::vector<int> exclude{};  ///< layers that are never among the k lowest
  /// Stop as soon as the k lowest of the first method are separated from the rest: the same ones in 1 - 0.05 / looks of
  /// the resamples (the error of 5 % is shared by all looks, Bonferroni).
  bool until_separated = false;
};

/// The text to measure on; it must outlive this.
struct ProbeText {
  std::span<const std::vector<ProbeBatch>> general;  ///< in parts: the scores are looked at after each of them
  std::span<const ProbeBatch> domain{};              ///< for methods that need it

  ProbeText(std::span<const std::vector<ProbeBatch>> parts, std::span<const ProbeBatch> domain_text = {})
      : general(parts), domain(domain_text) {}
  ProbeText(const std::vector<std::vector<ProbeBatch>>& parts) : general(parts) {}
};

/// How far a probe is.
struct ProbeState {
  std::int64_t batches = 0;  ///< of the general text, in their order, that were measured
  ProbeSamples samples;      ///< of these
};

/// One Importance per method, in the order asked, all from the fewest passes: one backward pass gives all methods that
/// need gradients. Only `until_separated` needs several parts. It goes on from `state`, which after an InterruptedError
/// is what it can go on from later, with the same result. Throws ConfigError for an unknown method or num_lowest,
/// DataError if no token is predicted, NonFiniteError if a score or the model's loss is not finite.
std::vector<Importance> probe(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options,
                              Progress& progress, ProbeState& state);
std::vector<Importance> probe(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options,
                              Progress& progress);
/// Units of work that `probe` tells the progress line.
std::int64_t probe_work(const model::Decoder& decoder, const ProbeText& text, const ProbeOptions& options);

/// Scores, intervals and stability from what was measured for a method of FromSequences. Throws NonFiniteError for a
/// score that is not finite.
Importance summarize(const ProbeSamples& samples, const ImportanceMethod& method, int num_lowest,
                     const std::vector<int>& exclude = {});

}  // namespace adept::method
