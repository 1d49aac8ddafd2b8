// Held-out text that occurs in the training text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adept/core/progress.h"
#include "adept/data/token_dataset.h"

namespace adept::data {

/// Tokens of a shared run that make a document contaminated (as in Brown et al., Language Models are Few-Shot Learners,
/// arXiv:2005.14165, appendix C, where n is 8 to 13 words).
inline constexpr std::int64_t kContaminationTokens = 13;
inline constexpr std::size_t kMaxContaminationExamples = 5;  ///< of each held-out dataset

/// A run of tokens of a held-out document, each n-gram of which occurs in the training text.
struct ContaminationExample {
  std::int64_t document = 0;        ///< held-out
  std::vector<std::int32_t> ids{};  ///< the beginning of the run
  std::string train_name{};         ///< the dataset that has its first n-gram,
  std::int64_t train_document = 0;  ///< and the first document
};

/// What a held-out dataset shares with the training text.
struct Contamination {
  std::string name{};
  std::int64_t documents = 0;
  std::int64_t contaminated_documents = 0;  ///< with at least one shared n-gram
  std::int64_t ngrams = 0;                  ///< n-grams of tokens; a shorter document has none
  std::int64_t shared_ngrams = 0;
  std::vector<ContaminationExample> examples{};  ///< of the first documents
};

struct ContaminationReport {
  std::vector<Contamination> held_out;  ///< of each held-out dataset
  std::vector<std::vector<std::int64_t>>
      train;  ///< of each training dataset: documents with a shared n-gram, ascending
};

/// Compares token ids exactly. Reads all ids. Memory per held-out token: 32 bytes, and up to twice that while they are
/// collected. The result does not depend on the number of threads. Progress counts the tokens of the training text.
/// Throws InterruptedError after a signal.
ContaminationReport find_contamination(std::span<const TokenDataset> train, std::span<const TokenDataset> held_out,
                                       int num_threads, Progress& progress = Progress::silent());

}  // namespace adept::data
