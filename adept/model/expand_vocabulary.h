// Adds tokens to a model: to its tokenizer.json, and rows to its embedding and head.
//
// The row of a new token is the mean of the rows of the tokens that its text was before. Everything else keeps its
// bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "adept/io/atomic_file.h"

namespace adept::model {

/// A token that was added to a model.
struct NewToken {
  std::int64_t id = 0;  ///< its row in the embedding and in the head
  std::string text;
};

struct ExpandedVocabulary {
  std::vector<NewToken> tokens;    ///< added by this call, ascending ids
  std::int64_t old_rows = 0;       ///< of the embedding
  std::int64_t rows = 0;           ///< old_rows if enough rows had no token
  std::int64_t num_pieces = 0;     ///< old tokens that the new ones replace, in total
  std::int64_t num_spare() const;  ///< new tokens in rows that the model had already
};

/// Writes the model of `model_dir` with these tokens (data::read_new_tokens) atomically to `out_dir`. Rows behind the
/// old tokens (a vocabulary padded to a multiple of 64) are used before rows are added. The records of adept are
/// copied, and io::kAddedTokensRecord lists the new tokens, also those of earlier calls. Throws DataError, also if the
/// old tokens would not keep their ids.
ExpandedVocabulary expand_vocabulary(const std::filesystem::path& model_dir, const std::filesystem::path& out_dir,
                                     std::span<const std::string> tokens,
                                     io::OnExisting on_existing = io::OnExisting::kFail);

/// The tokens that were added to a model, ascending ids; none without io::kAddedTokensRecord. Throws DataError if it is
/// damaged or has ids beyond the `vocab_size` rows of the model.
std::vector<NewToken> added_tokens_of(const std::filesystem::path& model_dir, std::int64_t vocab_size);

}  // namespace adept::model
