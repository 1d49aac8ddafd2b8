// Loss, perplexity and bits per byte of a model on text.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "adept/core/json.h"
#include "adept/core/progress.h"
#include "adept/data/sequences.h"
#include "adept/model/frozen_prefix.h"

namespace adept::eval {

/// What a model scores on one set of text.
struct Perplexity {
  double loss = 0;             ///< nats per predicted token, every token weighing the same
  double perplexity = 0;       ///< exp(loss); infinite, which is null in JSON, above a loss of 709
  double bits_per_byte = 0;    ///< loss / ln 2 * tokens per byte of the documents' UTF-8 text, so that the few tokens
                               ///< that are not predicted count as the others; comparable between tokenizers
  std::int64_t tokens = 0;     ///< predicted; padding and the first token of a sequence never are
  std::int64_t documents = 0;  ///< with at least one predicted token
  data::SampleSize text{};     ///< how much of the set was scored
};

struct PerplexityOptions {
  std::int64_t batch_size = 8;  ///< sequences in one forward pass at most
};

/// Scores every sequence once. Throws DataError, with `name`, if nothing can be predicted.
Perplexity evaluate_perplexity(const model::FrozenPrefix& model, const std::string& name,
                               const data::SequenceSet& sequences, const PerplexityOptions& options,
                               Progress& progress = Progress::silent());

/// Throws DataError, with `name`, if nothing in `sequences` can be predicted.
void require_targets(const std::string& name, const data::SequenceSet& sequences);

/// Throws NonFiniteError, with `name`, for a loss that is not a number.
void require_finite(const std::string& name, const Perplexity& result);

Json to_json(const Perplexity& result);
/// Throws DataError for anything else; `where` names it.
Perplexity perplexity_from_json(const Json& json, const std::string& where);

/// results.json: {"datasets": {NAME: {...}}}.
Json results_to_json(const std::map<std::string, Perplexity>& datasets);
std::map<std::string, Perplexity> results_from_json(const Json& json, const std::string& where);

}  // namespace adept::eval
