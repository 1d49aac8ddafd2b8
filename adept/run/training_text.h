// Repeated documents in the training text, and held-out text in it.
#pragma once

#include "adept/config/run_config.h"
#include "adept/core/json.h"
#include "adept/run/model_context.h"
#include "adept/run/result_cache.h"
#include "adept/run/text.h"

namespace adept::run {

/// Compares data.train (and data.replay, if it is used) with itself if data.deduplicate is set, and with data.eval.
/// Sets datasets.excluded, and logs what is excluded and what is contaminated. Results are kept in the cache.
/// Every process of the job calls it; the first one searches.
///
/// Returns the report, contamination.json:
///
///     tokens      n: a shared run of this many tokens counts
///     eval        {name: {documents, contaminated_documents, ngrams, shared_ngrams,
///                         examples: [{document, text, train_name, train_document}]}}
///     train       {name: {documents, contaminated_documents, repeated_documents, excluded_documents}}
Json check_training_text(const TextModel& model, const config::RunConfig& config, Datasets& datasets,
                         const ResultCache& cache);

}  // namespace adept::run
