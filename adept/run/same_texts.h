// Whether all processes of a job have the same tokens, and undamaged ones.
#pragma once

#include <string>
#include <vector>

#include "adept/data/token_dataset.h"
#include "adept/run/text.h"

namespace adept::run {

/// Throws dist::DisagreementError on every process if they have different tokens of a text, also of one that is read
/// from a machine's own cache, and DataError for damaged ones. Every store is read and checked once on each machine:
/// processes that see the same files divide the stores. Does nothing for one process.
void require_same_texts(const Datasets& datasets);

/// Texts, and their key in the configuration or their option, for messages.
struct TextsOf {
  const char* key;
  const std::vector<data::TokenDataset>& datasets;
};
void require_same_texts(const std::vector<TextsOf>& texts);

namespace detail {
/// Which stores rank `rank` checks. `seen[r][i]`: what identifies store i for rank r; equal for ranks that see the same
/// files.
std::vector<bool> checked_by(const std::vector<std::vector<std::string>>& seen, std::size_t rank);
}  // namespace detail

}  // namespace adept::run
