#include "adept/data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "adept/core/random.h"
#include "adept/data/packed_stream.h"
#include "adept/data/sequences.h"
#include "adept/data/train_loader.h"
#include "data_test_util.h"

namespace adept::data {
namespace {

constexpr std::int32_t kEosId = 0;

std::vector<std::int64_t> random_sizes(std::uint64_t seed, std::int64_t count, std::int64_t longest) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < count; ++i)
    lengths.push_back(
        1 + static_cast<std::int64_t>(random_bits(seed, RandomStream::kSampling, static_cast<std::uint64_t>(i)) %
                                      static_cast<std::uint64_t>(longest)));
  return lengths;
}

std::vector<std::int64_t> starts_of(const std::vector<std::int64_t>& lengths) {
  std::vector<std::int64_t> starts = {0};
  for (const std::int64_t length : lengths) starts.push_back(starts.back() + length);
  return starts;
}

// Best-fit decreasing, searched group by group: the sizes of the groups.
std::multiset<std::int64_t> naive_best_fit(const std::vector<std::int64_t>& lengths, std::int64_t seq_len) {
  std::vector<std::int64_t> parts, groups;
  for (std::int64_t length : lengths) {
    for (; length > seq_len; length -= seq_len) parts.push_back(seq_len);
    parts.push_back(length);
  }
  std::sort(parts.rbegin(), parts.rend());
  for (const std::int64_t part : parts) {
    const auto fits_better = [&](std::int64_t a, std::int64_t b) {
      const bool fits_a = a + part <= seq_len, fits_b = b + part <= seq_len;
      return fits_a != fits_b ? fits_b : a < b;
    };
    const auto best = std::max_element(groups.begin(), groups.end(), fits_better);
    if (best != groups.end() && *best + part <= seq_len)
      *best += part;
    else
      groups.push_back(part);
  }
  return {groups.begin(), groups.end()};
}

std::multiset<std::int64_t> group_sizes(const PackedLayout& layout) {
  std::multiset<std::int64_t> sizes;
  for (std::size_t g = 0; g + 1 < layout.groups.size(); ++g) sizes.insert(layout.groups[g + 1] - layout.groups[g]);
  return sizes;
}

TEST(Packing, BestFitHasEveryTokenOnceAndSplitsNoDocumentThatFits) {
  for (std::uint64_t seed = 0; seed < 40; ++seed)
    for (const std::int64_t seq_len : {1, 2, 7, 16, 100}) {
      const auto lengths = random_sizes(seed, 1 + static_cast<std::int64_t>(seed) * 3, 40);
      const PackedLayout layout = pack(Packing::kBestFit, starts_of(lengths), seq_len);
      ASSERT_EQ(layout.documents.size() + 1, layout.starts.size());
      ASSERT_EQ(layout.documents.size(), layout.offsets.size());
      std::map<std::int64_t, std::map<std::int64_t, std::int64_t>> parts;  // document -> offset -> size
      for (std::size_t p = 0; p < layout.documents.size(); ++p)
        parts[layout.documents[p]][layout.offsets[p]] = layout.starts[p + 1] - layout.starts[p];
      ASSERT_EQ(parts.size(), lengths.size());
      for (const auto& [document, sizes] : parts) {
        std::int64_t at = 0;
        for (const auto& [offset, size] : sizes) {
          ASSERT_EQ(offset, at) << "document " << document;
          at += size;
        }
        const std::int64_t length = lengths[static_cast<std::size_t>(document)];
        ASSERT_EQ(at, length);
        ASSERT_EQ(std::ssize(sizes), (length + seq_len - 1) / seq_len) << "as few parts as possible";
      }
      for (const std::int64_t start : layout.groups)
        ASSERT_TRUE(std::binary_search(layout.starts.begin(), layout.starts.end(), start)) << "a group starts a part";
    }
}

TEST(Packing, BestFitIsBestFitDecreasing) {
  for (std::uint64_t seed = 0; seed < 60; ++seed)
    for (const std::int64_t seq_len : {1, 5, 16, 64}) {
      const auto lengths = random_sizes(seed, static_cast<std::int64_t>(seed) * 4, 50);
      EXPECT_EQ(group_sizes(pack(Packing::kBestFit, starts_of(lengths), seq_len)), naive_best_fit(lengths, seq_len));
    }
}

TEST(Packing, OfNoDocumentsIsEmpty) {
  for (const Packing packing : {Packing::kConcat, Packing::kBestFit}) {
    const PackedLayout layout = pack(packing, std::vector<std::int64_t>{0}, 8);
    EXPECT_EQ(layout.groups.back(), 0);
  }
}

TEST(Packing, BestFitReadsDocumentsWithTheirEos) {
  // With EOS 4, 3, 8, 2 and 17 tokens; the last document is cut into 8, 8 and its EOS.
  const TokenDataset dataset = counting_dataset("a", {3, 2, 7, 1, 16});
  const SequenceSet set = packed(dataset, {.seq_len = 8, .eos = kEosId, .packing = Packing::kBestFit});
  std::vector<std::vector<std::int32_t>> tokens;
  for (const Sequence& sequence : set.to_vector()) tokens.push_back(sequence.tokens);
  const std::vector<std::vector<std::int32_t>> expected = {
      {6, 7, 8, 9, 10, 11, 12, 0},
      {14, 15, 16, 17, 18, 19, 20, 21},
      {22, 23, 24, 25, 26, 27, 28, 29},
      {1, 2, 3, 0, 4, 5, 0, 0},
      {13, 0},
  };
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(set[3].document_starts, (std::vector<std::int32_t>{4, 7}));
  EXPECT_EQ(set.counts().documents, 5);
  EXPECT_EQ(set.counts().split_documents, 1);
  EXPECT_EQ(set.counts().covered, 34);
}

TEST(Packing, CountsSplitDocuments) {
  const TokenDataset dataset = counting_dataset("a", {3, 9, 2, 20});
  const auto split = [&](Packing packing, std::int64_t seq_len) {
    return packed(dataset, {.seq_len = seq_len, .packing = packing}).counts().split_documents;
  };
  EXPECT_EQ(split(Packing::kConcat, 10), 2);  // the second at 10, the last at 20 and 30
  EXPECT_EQ(split(Packing::kBestFit, 10), 1);
  EXPECT_EQ(split(Packing::kConcat, 100), 0);
  EXPECT_EQ(split(Packing::kBestFit, 20), 0);
}

TEST(Packing, BothCoverTheSameText) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const TokenDataset dataset = counting_dataset("a", random_sizes(seed, 60, 30));
    for (const std::optional<std::int32_t> eos : {std::optional(kEosId), std::optional<std::int32_t>()}) {
      const auto counts = [&](Packing packing) {
        return packed(dataset, {.seq_len = 16, .eos = eos, .packing = packing}).counts();
      };
      const SequenceCounts joined = counts(Packing::kConcat), fitted = counts(Packing::kBestFit);
      EXPECT_EQ(joined.tokens, fitted.tokens);
      EXPECT_EQ(fitted.targets + fitted.no_context + fitted.too_short, fitted.tokens);
      EXPECT_LE(fitted.split_documents, joined.split_documents);
    }
  }
}

TrainLoader best_fit_loader(std::uint64_t seed, bool mask = true) {
  return TrainLoader({{.dataset = counting_dataset("long", random_sizes(1, 37, 40), 1), .weight = 3},
                      {.dataset = counting_dataset("short", random_sizes(2, 50, 9), 100'000), .weight = 1}},
                     {.seq_len = 16, .eos = kEosId, .seed = seed, .packing = Packing::kBestFit, .document_mask = mask});
}

TEST(Packing, ATrainingOnBestFitGivesEveryTokenOnceInAnEpochInAnotherOrder) {
  TrainLoader loader({{.dataset = counting_dataset("a", random_sizes(1, 80, 40))}},
                     {.seq_len = 16, .eos = kEosId, .seed = 3, .packing = Packing::kBestFit});
  std::vector<std::vector<Sequence>> epochs;
  for (int epoch = 0; epoch < 3; ++epoch) {
    epochs.push_back(loader.next_step(loader.sequences_per_epoch(0)));
    std::set<std::int32_t> ids;
    for (const Sequence& sequence : epochs.back())
      for (const std::int32_t id : sequence.tokens) ASSERT_TRUE(id == kEosId || ids.insert(id).second);
    EXPECT_EQ(std::ssize(ids), counting_dataset("a", random_sizes(1, 80, 40)).num_tokens());
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
  EXPECT_TRUE(std::is_permutation(epochs[0].begin(), epochs[0].end(), epochs[1].begin(), epochs[1].end()));
  const auto is_not_longer = [](const Sequence& a, const Sequence& b) { return a.tokens.size() >= b.tokens.size(); };
  EXPECT_FALSE(std::is_sorted(epochs[0].begin(), epochs[0].end(), is_not_longer)) << "long documents are not first";
}

TEST(Packing, ATrainingOnBestFitContinuesFromAnyPosition) {
  TrainLoader loader = best_fit_loader(5);
  const auto run = best_fit_loader(5).next_step(160);
  for (std::size_t n = 0; n < 100; ++n) {
    TrainLoader resumed = best_fit_loader(5);
    resumed.load_state(parse_json(loader.state().dump(), "state"), "state");
    const auto rest = resumed.next_step(60);
    ASSERT_TRUE(std::equal(rest.begin(), rest.end(), run.begin() + static_cast<long>(n))) << "after " << n;
    EXPECT_EQ(loader.next_step(1).front(), run[n]);
  }
}

TEST(Packing, WeightsAreSharesOfTheTokens) {
  // Sequences of 9 and of 15 tokens: no two documents fit into one.
  TrainLoader loader({{.dataset = counting_dataset("a", std::vector<std::int64_t>(9, 8)), .weight = 1},
                      {.dataset = counting_dataset("b", std::vector<std::int64_t>(9, 14), 1000), .weight = 1}},
                     {.seq_len = 16, .eos = kEosId, .packing = Packing::kBestFit});
  loader.next_step(240);
  EXPECT_NEAR(static_cast<double>(loader.num_tokens(0)), static_cast<double>(loader.num_tokens(1)), 15);
  EXPECT_DOUBLE_EQ(loader.padding_share(0), 1 - 9.0 / 16);
  EXPECT_EQ(loader.split_share(0), 0);
}

TEST(Packing, ALimitOfTokensCountsSequencesOfAnyLength) {
  for (const std::int64_t most : {40, 41, 60, 100, 333, 800, 2000}) {
    TrainSource limited{.dataset = counting_dataset("a", random_sizes(7, 30, 40)), .weight = 1};
    limited.max_tokens = most;
    TrainLoader loader({limited, {.dataset = counting_dataset("b", {9}, 5000), .weight = 1}},
                       {.seq_len = 16, .eos = kEosId, .packing = Packing::kBestFit});
    loader.next_step(2000);
    EXPECT_LE(loader.num_tokens(0), most);
    EXPECT_GT(loader.num_tokens(0), most - 16) << "the next sequence does not fit";
  }
}

}  // namespace
}  // namespace adept::data
