// Converts text to token ids on several threads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "adept/core/progress.h"
#include "adept/data/text_encoder.h"
#include "adept/data/text_source.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

struct TokenizeOptions {
  std::vector<SkippedRecord>* skipped = nullptr;   ///< receives the first records that were skipped
  int num_threads = 0;                             ///< tokenizer threads; 0: one per core
  std::size_t chunk_bytes = std::size_t{1} << 18;  ///< of text per chunk of a thread
};

/// Reads and tokenizes a source. The result does not depend on the number of threads; text in memory is bounded by two
/// chunks per thread (each of the given size plus at most one document), and by 64 MiB plus one document. A document of
/// 4 MiB or more is tokenized directly into the result, and no other is read meanwhile. Documents without ids are
/// counted as skipped ("no tokens"). Progress counts bytes of the files (its total is set here), and ids as work.
///
/// Throws like DocumentReader; DataError for an id outside the encoder's vocabulary; InterruptedError after a signal.
TokenDataset tokenize(const TextSource& source, const TextEncoder& encoder, const TokenizeOptions& options = {},
                      Progress& progress = Progress::silent());

/// The same into a file (token_file.h), which is then mapped: for data that exceed memory, or to keep.
TokenDataset tokenize_to_file(const std::filesystem::path& path, const TextSource& source, const TextEncoder& encoder,
                              const TokenizeOptions& options = {}, Progress& progress = Progress::silent());

}  // namespace adept::data
