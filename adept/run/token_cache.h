// The tokens of a run's texts: stores that are built once, and used by every later call.
#pragma once

#include <filesystem>

#include "adept/data/text_source.h"
#include "adept/data/token_dataset.h"
#include "adept/run/model_context.h"

namespace adept::run {

/// Whether a store is checked as a whole before it is used.
enum class Verify { kWhenRead, kNow };

/// Tokenizes one source into memory, or opens it if it is a token store.
data::TokenDataset tokenize_source(const TextModel& model, const data::TextSource& source);

/// Tokenizes one source into a store, or opens the store of the same text, options and tokenizer; a source that is a
/// store is used where it is. Stores are in tokens/ of the user's cache, so that runs of a sweep share them, and
/// `directory`/<name>.tokens is a link; with ADEPT_RESULT_CACHE=off, or a cache that cannot be written, it is the
/// store. Stores in the cache that no run used for 30 days are removed when a new one is built. The first records that
/// are skipped are listed in `directory`/<name>.skipped.jsonl.
data::TokenDataset tokenize_source_cached(const TextModel& model, const data::TextSource& source,
                                          const std::filesystem::path& directory, Verify verify = Verify::kWhenRead);

/// Lists skipped records as JSON lines, or removes the list of an earlier text.
void write_skipped(const std::filesystem::path& path, const std::vector<data::SkippedRecord>& skipped);

}  // namespace adept::run
