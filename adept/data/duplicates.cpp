#include "adept/data/duplicates.h"

#include <algorithm>
#include <mutex>
#include <tuple>

#include "adept/core/hash.h"
#include "adept/core/parallel.h"
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

std::vector<HashedDocument> hash_documents(std::span<const TokenDataset> datasets, int num_threads,
                                           Progress& progress) {
  std::vector<HashedDocument> documents;
  for (std::size_t d = 0; d < datasets.size(); ++d)
    for (std::int64_t i = 0; i < datasets[d].num_documents(); ++i)
      documents.push_back({.dataset = static_cast<std::uint32_t>(d), .document = i});
  progress.set_total(std::ssize(documents));
  constexpr std::int64_t kAtATime = 64;
  std::mutex mutex;  // of what follows
  std::int64_t num_done = 0, num_tokens = 0;
  for_each_in_parallel((std::ssize(documents) + kAtATime - 1) / kAtATime, num_threads, [&](std::int64_t part) {
    const std::int64_t begin = part * kAtATime, end = std::min(begin + kAtATime, std::ssize(documents));
    std::int64_t tokens = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      throw_if_interrupted();
      HashedDocument& each = documents[static_cast<std::size_t>(i)];
      const std::vector<std::int32_t> ids = ids_of(datasets[each.dataset], each.document);
      each.hash = short_hash_of(std::as_bytes(std::span(ids)));
      tokens += std::ssize(ids);
    }
    const std::lock_guard lock(mutex);
    progress.update(num_done += end - begin, num_tokens += tokens);
  });
  return documents;
}

}  // namespace

std::vector<std::vector<std::int64_t>> find_duplicates(std::span<const TokenDataset> datasets, int num_threads,
                                                       Progress& progress) {
  std::vector<HashedDocument> documents = hash_documents(datasets, num_threads, progress);
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
