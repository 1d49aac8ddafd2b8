// The tokens of a run's texts: stores that are built once, and used by every later call.
#pragma once

#include <cstdint>
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
/// store. When a new one is built, limit_token_cache() removes others. Without a `directory`, which then needs a
/// cache, there is no link.
data::TokenDataset tokenize_source_cached(const TextModel& model, const data::TextSource& source,
                                          const std::filesystem::path& directory, Verify verify = Verify::kWhenRead);

/// Removes stores in `cache` that no run used for 30 days, and beyond `most_bytes` of all stores those that were not
/// used for longest. A store that a process has open or builds stays.
void limit_token_cache(const std::filesystem::path& cache, std::int64_t most_bytes);

/// The most bytes of the stores in `cache`: $ADEPT_TOKEN_CACHE_GB, or a fifth of the disk. Throws ConfigError for a
/// variable that is not a positive number.
std::int64_t most_token_cache_bytes(const std::filesystem::path& cache);

/// Where the stores are: the user's cache, or `directory` without one.
std::filesystem::path token_folder(const std::filesystem::path& directory);

}  // namespace adept::run
