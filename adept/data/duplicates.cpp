#include "adept/data/duplicates.h"

#include <algorithm>
#include <tuple>

#include "adept/core/hash.h"
#include "adept/core/signals.h"

namespace adept::data {
namespace {

struct HashedDocument {
  std::uint64_t hash = 0;
  std::uint32_t dataset = 0;
  std::int64_t document = 0;

  auto key() const { return std::tuple(hash, dataset, document); }
};

std::vector<std::int32_t> ids_of(const TokenDataset& dataset, std::int64_t document) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(dataset.document_tokens(document)));
  dataset.read(document, 0, ids);
  return ids;
}

// Of documents with the same hash, in order: those whose ids equal those of an earlier one.
void add_repeated(std::span<const TokenDataset> datasets, std::span<const HashedDocument> group,
                  std::vector<std::vector<std::int64_t>>& duplicates) {
  std::vector<std::vector<std::int32_t>> different;  // more than one: a collision of hashes
  for (const HashedDocument& each : group) {
    std::vector<std::int32_t> ids = ids_of(datasets[each.dataset], each.document);
    if (std::ranges::find(different, ids) != different.end())
      duplicates[each.dataset].push_back(each.document);
    else
      different.push_back(std::move(ids));
  }
}

}  // namespace

std::vector<std::vector<std::int64_t>> find_duplicates(std::span<const TokenDataset> datasets, Progress& progress) {
  std::vector<HashedDocument> documents;
  std::int64_t num_tokens = 0;
  for (std::size_t d = 0; d < datasets.size(); ++d)
    for (std::int64_t i = 0; i < datasets[d].num_documents(); ++i) {
      throw_if_interrupted();
      const std::vector<std::int32_t> ids = ids_of(datasets[d], i);
      documents.push_back({short_hash_of(std::as_bytes(std::span(ids))), static_cast<std::uint32_t>(d), i});
      progress.update(std::ssize(documents), num_tokens += std::ssize(ids));
    }
  std::ranges::sort(documents, {}, &HashedDocument::key);
  std::vector<std::vector<std::int64_t>> duplicates(datasets.size());
  for (std::size_t begin = 0, end = 0; begin < documents.size(); begin = end) {
    while (end < documents.size() && documents[end].hash == documents[begin].hash) ++end;
    if (end - begin > 1) add_repeated(datasets, std::span(documents).subspan(begin, end - begin), duplicates);
  }
  for (std::vector<std::int64_t>& of_dataset : duplicates) std::ranges::sort(of_dataset);
  progress.finish();
  return duplicates;
}

}  // namespace adept::data
