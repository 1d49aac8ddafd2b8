// From text to token ids, on several threads.
#pragma once

#include <cstddef>
#include <filesystem>

#include "adept/core/progress.h"
#include "adept/data/text_encoder.h"
#include "adept/data/text_source.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

struct TokenizeOptions {
  int num_threads = 0;                             ///< that tokenize; 0: one per core
  std::size_t chunk_bytes = std::size_t{1} << 18;  ///< of text that a thread takes at a time
};

/// Reads and tokenizes a source. The result does not depend on the number of threads; text in flight is bounded by two
/// chunks a thread, each the stated size and at most one document more, and by 64 MiB and one document more. A document
/// of 4 MiB or more is tokenized straight into the result, and none is read beyond it meanwhile. Documents without ids
/// are counted as skipped ("no tokens"). Progress counts bytes of the files (its total is set here), and ids as work.
///
/// Throws as DocumentReader does; DataError for an id outside the encoder's vocabulary; InterruptedError after a
/// signal.
TokenDataset tokenize(const TextSource& source, const TextEncoder& encoder, const TokenizeOptions& options = {},
                      Progress& progress = Progress::silent());

/// The same into a file (token_file.h), which is then mapped: for data that does not fit in memory, and to keep.
TokenDataset tokenize_to_file(const std::filesystem::path& path, const TextSource& source, const TextEncoder& encoder,
                              const TokenizeOptions& options = {}, Progress& progress = Progress::silent());

}  // namespace adept::data
