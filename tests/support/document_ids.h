// The ids of a dataset as vectors, for comparisons.
#pragma once

#include <cstdint>
#include <vector>

#include "adept/data/token_dataset.h"

namespace adept::test {

inline std::vector<std::int32_t> document_ids(const data::TokenDataset& dataset, std::int64_t document) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(dataset.document_tokens(document)));
  dataset.read(document, 0, ids);
  return ids;
}

/// Of all documents, one after the other.
inline std::vector<std::int32_t> all_ids(const data::TokenDataset& dataset) {
  std::vector<std::int32_t> all;
  for (std::int64_t i = 0; i < dataset.num_documents(); ++i) {
    const std::vector<std::int32_t> ids = document_ids(dataset, i);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return all;
}

}  // namespace adept::test
