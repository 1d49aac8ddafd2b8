// What a training will read: `adept data inspect`.
#pragma once

#include <cstdint>
#include <vector>

#include "adept/config/run_config.h"

namespace adept::run {

struct InspectOptions {
  std::int64_t sequences = 2;         ///< of the first step that are shown
  std::int64_t document_bytes = 400;  ///< of each document that are shown; 0: all
  bool color = false;                 ///< ANSI colors
};

/// The sequences that the whole training of a configuration reads. Like inspect_data, it tokenizes what is not in the
/// user's cache.
std::int64_t training_sequences(const config::RunConfig& config);

/// The sequences of a batch: their tokens.
using BatchLengths = std::vector<std::int64_t>;
/// Batches that the processes of a job divide.
using DividedBatches = std::vector<BatchLengths>;

/// The batches on which the stages of a run measure, in the order in which they do.
struct MeasuredText {
  std::vector<DividedBatches> eval;    ///< of each set of data.eval
  std::vector<DividedBatches> copies;  ///< likewise, on which the effect of the copies is measured
  DividedBatches probe;                ///< of data.general
  DividedBatches domain;               ///< of the first source of data.train, if the probe measures it
  DividedBatches units;                ///< of data.general, for an update of the units' rates
};

/// Tokenizes data.general and data.eval where they are measured, like training_sequences. Throws like a run for texts
/// that are too short.
MeasuredText measured_text(const config::RunConfig& config);

/// Prints on standard output: statistics of each source (documents, tokens, bytes per token, a histogram of document
/// lengths), the mixture over the run, and the first sequences as text, with documents and untrained tokens marked.
/// Writes nothing but results and token stores in the user's cache, which a run then uses; without that cache, into a
/// temporary folder. Throws like a run.
void inspect_data(const config::RunConfig& config, const InspectOptions& options);

}  // namespace adept::run
