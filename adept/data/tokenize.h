// Converts text to token ids on several threads.
#pragma once

#include <cstddef>
#include <filesystem>

#include "adept/core/progress.h"
#include "adept/data/store/token_store.h"
#include "adept/data/text_encoder.h"
#include "adept/data/text_source.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

struct TokenizeOptions {
  int num_threads = 0;                             ///< tokenizer threads; 0: one per core
  std::size_t chunk_bytes = std::size_t{1} << 18;  ///< of text per chunk of a thread
  StoreOptions store{};
};

/// Reads and tokenizes a source, or reads the tokens of one that has them (interchange/token_files.h). The result does
/// not depend on the number of threads; text in memory is bounded by two chunks per thread (each of the given size plus
/// at most one document), and by 64 MiB plus one document. A document of 4 MiB or more is tokenized directly into the
/// result, and no other is read meanwhile, unless it has answers to find. Documents without ids are counted as skipped
/// ("no tokens"). Progress counts bytes of the files (its total is set here), and ids as work.
///
/// Throws like DocumentReader; DataError for an id outside the encoder's vocabulary; InterruptedError after a signal.
TokenDataset tokenize(const TextSource& source, const TextEncoder& encoder, const TokenizeOptions& options = {},
                      Progress& progress = Progress::silent());

/// The same into any sink. Returns what was read, without the number of tokens.
DatasetInfo tokenize_into(TokenSink& sink, const TextSource& source, const TextEncoder& encoder,
                          const TokenizeOptions& options = {}, Progress& progress = Progress::silent());

/// What decides the ids of a source. Throws like find_files().
DatasetInfo dataset_inputs(const TextSource& source, const TextEncoder& encoder);

/// The same into a store (store/token_store.h), or the store if the folder contains it already: for data that exceed
/// memory, or to keep. An interrupted call goes on after the last finished shard; the result has the same bytes as that
/// of an uninterrupted one. Throws like build_store() too.
TokenDataset tokenize_to_store(const std::filesystem::path& folder, const TextSource& source,
                               const TextEncoder& encoder, const TokenizeOptions& options = {},
                               Progress& progress = Progress::silent());
/// The same where the caller has the inputs of source and encoder already.
TokenDataset tokenize_to_store(const std::filesystem::path& folder, const DatasetInfo& inputs, const TextSource& source,
                               const TextEncoder& encoder, const TokenizeOptions& options, Progress& progress);

/// Checks all of a store, and that the files of its source still have the bytes that it was made of. Throws DataError.
void verify_source(const std::filesystem::path& folder, const TextSource& source, Progress& progress);
/// The same for a store that may be replaced (kReplace): one that fails is discarded with a warning, and must be made
/// again. Returns whether it is kept.
bool verify_or_discard(const std::filesystem::path& folder, const TextSource& source, OnOtherStore on_other,
                       Progress& progress);

}  // namespace adept::data
