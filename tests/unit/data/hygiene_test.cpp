#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <set>

#include "adept/core/random.h"
#include "adept/data/contamination.h"
#include "adept/data/duplicates.h"
#include "data_test_util.h"

namespace adept::data {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Ids = std::vector<std::int32_t>;

constexpr auto kNgram = static_cast<std::size_t>(kContaminationTokens);

TokenDataset dataset_of_ids(const std::string& name, const std::vector<Ids>& documents) {
  return TokenDataset(DatasetInfo{.name = name, .vocab_size = 1000}, documents,
                      std::vector<std::int64_t>(documents.size(), 1));
}

Ids random_ids(std::uint64_t seed, std::size_t size, std::uint64_t vocab_size) {
  Ids ids;
  for (std::size_t i = 0; i < size; ++i)
    ids.push_back(static_cast<std::int32_t>(random_bits(seed, RandomStream::kSampling, i) % vocab_size));
  return ids;
}

TEST(Duplicates, AreTheLaterDocumentsWithTheSameIds) {
  const std::vector<TokenDataset> datasets = {dataset_of_ids("a", {{1, 2}, {3}, {1, 2}, {2, 1}, {1, 2}}),
                                              dataset_of_ids("b", {{4}, {3}, {1, 2, 3}, {4}})};
  const auto duplicates = find_duplicates(datasets, /*num_threads=*/1);
  EXPECT_THAT(duplicates, ElementsAre(ElementsAre(2, 4), ElementsAre(1, 3)));
}

TEST(Duplicates, AreThoseOfASearchByEquality) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<TokenDataset> datasets;
    std::vector<std::vector<std::int64_t>> expected;
    std::set<Ids> known;
    for (const char* name : {"a", "b", "c"}) {
      std::vector<Ids> documents;
      expected.emplace_back();
      for (std::uint64_t i = 0; i < 140; ++i) {
        documents.push_back(random_ids(1000 * seed + i + name[0], 1 + i % 4, 3));
        if (!known.insert(documents.back()).second) expected.back().push_back(static_cast<std::int64_t>(i));
      }
      datasets.push_back(dataset_of_ids(name, documents));
    }
    for (const int num_threads : {1, 3}) EXPECT_EQ(find_duplicates(datasets, num_threads), expected);
  }
}

TEST(Contamination, IsARunOfThirteenTokensThatTheTrainingTextHasToo) {
  Ids shared = random_ids(1, kNgram + 2, 1000);
  const Ids twelve(shared.begin(), shared.begin() + static_cast<long>(kNgram) - 1);
  Ids train = random_ids(2, 50, 1000), held = random_ids(3, 30, 1000), clean = random_ids(4, 40, 1000);
  train.insert(train.begin() + 20, shared.begin(), shared.end());
  held.insert(held.begin() + 7, shared.begin(), shared.end());
  clean.insert(clean.begin() + 5, twelve.begin(), twelve.end());
  const std::vector<TokenDataset> training = {dataset_of_ids("x", {clean}), dataset_of_ids("y", {clean, train, {1}})};
  const std::vector<TokenDataset> held_out = {dataset_of_ids("h", {random_ids(5, 99, 1000), held, {1, 2, 3}}),
                                              dataset_of_ids("g", {random_ids(6, 20, 1000)})};
  const ContaminationReport report = find_contamination(training, held_out, 1);
  EXPECT_THAT(report.train, ElementsAre(IsEmpty(), ElementsAre(1)));
  const Contamination& h = report.held_out[0];
  EXPECT_EQ(h.name, "h");
  EXPECT_EQ(h.documents, 3);
  EXPECT_EQ(h.contaminated_documents, 1);
  EXPECT_EQ(h.shared_ngrams, 3);
  EXPECT_EQ(h.ngrams, 87 + 33);
  ASSERT_EQ(h.examples.size(), 1U);
  EXPECT_EQ(h.examples[0].document, 1);
  EXPECT_EQ(h.examples[0].ids, shared);
  EXPECT_EQ(h.examples[0].train_name, "y");
  EXPECT_EQ(h.examples[0].train_document, 1);
  EXPECT_EQ(report.held_out[1].shared_ngrams, 0);
  EXPECT_THAT(report.held_out[1].examples, IsEmpty());
}

// Sets of n-grams, compared one by one.
std::set<Ids> ngrams_of(const Ids& ids) {
  std::set<Ids> ngrams;
  for (std::size_t i = 0; i + kNgram <= ids.size(); ++i)
    ngrams.emplace(ids.begin() + static_cast<long>(i), ids.begin() + static_cast<long>(i + kNgram));
  return ngrams;
}

TEST(Contamination, IsThatOfASearchByEqualityWithAnyNumberOfThreads) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    std::vector<Ids> train, held;
    for (std::uint64_t i = 0; i < 150; ++i)
      train.push_back(random_ids(seed * 1000 + i, 60, 2));  // of two ids: repetitions
    for (std::uint64_t i = 0; i < 30; ++i) held.push_back(random_ids(seed * 1000 + 500 + i, 10 + i * 3, 2));
    std::set<Ids> known, wanted;
    for (const Ids& ids : train) known.merge(ngrams_of(ids));
    for (const Ids& ids : held) wanted.merge(ngrams_of(ids));
    std::int64_t shared = 0, documents = 0;
    for (const Ids& ids : held) {
      const std::int64_t before = shared;
      for (std::size_t i = 0; i + kNgram <= ids.size(); ++i)
        shared += static_cast<std::int64_t>(
            known.count({ids.begin() + static_cast<long>(i), ids.begin() + static_cast<long>(i + kNgram)}));
      documents += shared > before ? 1 : 0;
    }
    std::vector<std::int64_t> contaminated;
    for (std::size_t i = 0; i < train.size(); ++i)
      if (std::ranges::any_of(ngrams_of(train[i]), [&](const Ids& ngram) { return wanted.count(ngram) > 0; }))
        contaminated.push_back(static_cast<std::int64_t>(i));
    const std::vector<TokenDataset> training = {dataset_of_ids("t", train)}, held_out = {dataset_of_ids("h", held)};
    for (const int threads : {1, 3}) {
      const ContaminationReport report = find_contamination(training, held_out, threads);
      EXPECT_EQ(report.held_out[0].shared_ngrams, shared);
      EXPECT_EQ(report.held_out[0].contaminated_documents, documents);
      EXPECT_THAT(report.train, ElementsAre(contaminated));
      EXPECT_EQ(report.held_out[0].examples.size(), std::min<std::size_t>(5, static_cast<std::size_t>(documents)));
    }
  }
}

TEST(Contamination, IsFoundAcrossThePartsOfALongDocument) {
  const std::size_t edge = std::size_t{1} << 20;  // where the second part starts
  Ids train = random_ids(1, edge + 100, 1000);
  for (const std::size_t at : {edge - kNgram, edge - 6, edge - 1, edge, edge + 20}) {
    const Ids ngram(train.begin() + static_cast<long>(at), train.begin() + static_cast<long>(at + kNgram));
    const std::vector<TokenDataset> training = {dataset_of_ids("t", {train})}, held = {dataset_of_ids("h", {ngram})};
    EXPECT_EQ(find_contamination(training, held, 1).held_out[0].shared_ngrams, 1) << at;
  }
}

TEST(Contamination, OfNoTextIsNone) {
  const std::vector<TokenDataset> text = {dataset_of_ids("t", {random_ids(1, 50, 9)})};
  EXPECT_TRUE(find_contamination({}, text, 2).held_out[0].examples.empty());
  EXPECT_TRUE(find_contamination(text, {}, 2).held_out.empty());
}

}  // namespace
}  // namespace adept::data
