// Documents that occur more than once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "adept/core/progress.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// For each dataset, the documents whose ids equal those of an earlier document, of the same dataset or of one before
/// it; ascending. Reads all ids, and some twice; 24 to 48 bytes of memory per document. The result does not depend on
/// the number of threads. Progress counts documents. Throws InterruptedError after a signal.
std::vector<std::vector<std::int64_t>> find_duplicates(std::span<const TokenDataset> datasets, int num_threads,
                                                       Progress& progress = Progress::silent());

}  // namespace adept::data
