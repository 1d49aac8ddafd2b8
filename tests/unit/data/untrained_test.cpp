// Tokens that are context only: in stores, in sequences, and in what is counted and measured.
#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>

#include "adept/core/error.h"
#include "adept/core/random.h"
#include "adept/data/packed_stream.h"
#include "adept/data/sequences.h"
#include "adept/data/train_loader.h"
#include "adept/io/record.h"
#include "data_test_util.h"
#include "tests/support/files.h"

namespace adept::data {
namespace {

using adept::test::read_file;
using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

// Documents of different tokens, each of 2 bytes where it is trained on and of 7 where it is not.
TokenDataset dataset_of(const std::vector<std::vector<bool>>& is_trained, const std::string& name = "s") {
  std::vector<std::vector<std::int32_t>> documents;
  std::vector<std::int64_t> bytes;
  std::vector<Untrained> all;
  std::int32_t id = 1;
  for (const std::vector<bool>& trained : is_trained) {
    documents.emplace_back();
    bytes.push_back(0);
    Untrained& untrained = all.emplace_back();
    for (std::size_t i = 0; i < trained.size(); ++i) {
      documents.back().push_back(id++);
      bytes.back() += trained[i] ? 2 : 7;
      if (trained[i]) continue;
      const auto at = static_cast<std::int32_t>(i);
      if (untrained.empty() || untrained.spans.back().end != at) untrained.spans.push_back({at, at});
      ++untrained.spans.back().end;
      untrained.bytes += 7;
    }
  }
  return TokenDataset({.name = name, .vocab_size = 1'000'000, .counts = {}}, documents, bytes, all);
}

std::vector<std::vector<bool>> random_documents(std::uint64_t seed, int count, int longest) {
  std::vector<std::vector<bool>> documents;
  std::uint64_t counter = 0;
  const auto draw = [&](int below) {
    return static_cast<int>(random_bits(seed, RandomStream::kSampling, counter++) % static_cast<std::uint64_t>(below));
  };
  for (int d = 0; d < count; ++d) {
    std::vector<bool>& document = documents.emplace_back();
    for (const int size = 1 + draw(longest); std::ssize(document) < size;)
      document.insert(document.end(), static_cast<std::size_t>(1 + draw(4)), d % 5 != 4 && draw(2) == 0);
  }
  return documents;
}

TEST(UntrainedOfDatasets, RoundTripsInStoresAndIsPartOfTheFingerprint) {
  const TemporaryFolder folder;
  for (std::uint64_t seed = 0; seed < 5; ++seed)
    for (const std::int64_t shard_bytes : {std::int64_t{1}, std::int64_t{100}, std::int64_t{1} << 28}) {
      const TokenDataset dataset = dataset_of(random_documents(seed, 30, 12));
      write_store(folder / "store", dataset, shard_bytes);
      const TokenDataset read = open_store(folder / "store");
      EXPECT_TRUE(read.has_untrained());
      verify_store(folder / "store");
      expect_equal(read, dataset);
      fs::remove_all(folder / "store");
    }
  const std::string base = dataset_of({{true, true, false}, {true}}).fingerprint();
  EXPECT_NE(dataset_of({{true, false, false}, {true}}).fingerprint(), base);
  const std::vector<std::vector<std::int32_t>> ids = {{1, 2, 3}, {4}};
  const auto with_bytes = [&](std::int64_t bytes) {
    const std::vector<std::int64_t> lengths = {11, 2};
    const std::vector<Untrained> untrained = {{.spans = {{2, 3}}, .bytes = bytes}, {}};
    return TokenDataset({.name = "s", .vocab_size = 1'000'000, .counts = {}}, ids, lengths, untrained).fingerprint();
  };
  EXPECT_EQ(with_bytes(7), base);
  EXPECT_NE(with_bytes(6), base);
  EXPECT_EQ(dataset_of({{true, true}, {true}}).fingerprint(),
            TokenDataset({.name = "s", .vocab_size = 9, .counts = {}},
                         std::vector<std::vector<std::int32_t>>{{1, 2}, {3}}, std::vector<std::int64_t>{4, 2})
                .fingerprint())
      << "as without the option";
}

TEST(UntrainedOfDatasets, ADocumentAfterTheLastWithSpansHasNone) {
  const TemporaryFolder folder;
  const TokenDataset dataset = dataset_of({{true}, {false, true}, {true}, {true, true}});
  write_store(folder / "store", dataset);
  expect_equal(open_store(folder / "store"), dataset);
}

TEST(UntrainedOfDatasets, EveryFlippedBitInTheirPartIsFound) {
  const TemporaryFolder folder;
  const std::string store = folder / "store", path = store + "/00000.tokens";
  write_store(store, dataset_of({{true, false}, {true}, {false, true, false}}));
  const std::string good = read_file(path);
  ASSERT_LT(good.size(), 500u);
  for (std::size_t at = 0; at < good.size(); ++at)
    for (const int bit : {0, 3, 7}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      std::ofstream(path, std::ios::binary) << bad;
      EXPECT_THAT(message_of<DataError>([&] { verify_store(store); }), HasSubstr(store)) << at << " " << bit;
    }
}

// Writes the file of a shard with a right hash, and the record of its store.
void write_shard(const std::string& store, std::string bytes, std::size_t id_bytes) {
  const std::size_t hash_at = bytes.size() - 48;
  Hasher hasher;
  hasher.update(std::string_view(bytes).substr(0, 16));
  hasher.update(std::string_view(bytes).substr(16 + id_bytes, hash_at - 16 - id_bytes));
  const std::string hash = hasher.digest();
  bytes.replace(hash_at, hash.size(), hash);
  std::ofstream(store + "/00000.tokens", std::ios::binary) << bytes;
  Json record = io::read_record(store + "/store.json");
  record.erase(io::kChecksum);
  record["shards"][0]["hash"] = hash;
  io::write_record(store + "/store.json", record);
}

// Parts of the shard below: 6 ids of 4 bytes, ends and text bytes of 3 documents (padded to 16 bytes each), their last
// ids, the number of spans, their ends, bytes, and the spans.
constexpr std::size_t kIds = 24, kCount = 16 + kIds + 3 * 16, kSpanEnds = kCount + 8, kBytes = kSpanEnds + 16,
                      kSpans = kBytes + 16;

TEST(UntrainedOfDatasets, LiesWithRightHashesAreRefused) {
  const TemporaryFolder folder;
  const std::string store = folder / "store";
  const TokenDataset dataset = dataset_of({{true, false}, {true}, {false, true, false}});
  write_store(store, dataset);
  const std::string good = read_file(store + "/00000.tokens");
  const auto problem = [&](std::size_t at, std::initializer_list<std::uint32_t> numbers) {
    std::string bad = good;
    for (const std::uint32_t number : numbers) {
      std::memcpy(bad.data() + at, &number, 4);
      at += 4;
    }
    write_shard(store, bad, kIds);
    return message_of<DataError>([&] { open_store(store).untrained(2); });
  };
  write_shard(store, good, kIds);
  expect_equal(open_store(store), dataset);
  EXPECT_THAT(problem(kCount, {4}), HasSubstr("do not match the sizes"));
  EXPECT_THAT(problem(kCount, {0}), HasSubstr("do not match the sizes"));
  EXPECT_THAT(problem(kCount, {0xFFFFFFFF, 0xFFFFFFFF}), HasSubstr("do not match the sizes"));
  EXPECT_THAT(problem(kSpanEnds, {2, 1, 3}), HasSubstr("untrained"));
  EXPECT_THAT(problem(kSpanEnds, {1, 1, 9}), HasSubstr("document 2 has the untrained spans 1 to 9"));
  EXPECT_THAT(problem(kSpanEnds, {1, 1, 2}), HasSubstr("do not have all of its 3 untrained spans"));
  EXPECT_THAT(problem(kBytes, {10}), HasSubstr("document 0 has untrained tokens outside its 2 ids and 9 bytes"));
  EXPECT_THAT(problem(kBytes + 4, {1}), HasSubstr("document 1 has untrained tokens outside")) << "without spans";
  for (const auto& span : {std::pair<std::uint32_t, std::uint32_t>{1, 3}, {1, 1}, {2, 1}, {0xFFFFFFFF, 1}})
    EXPECT_THAT(problem(kSpans, {span.first, span.second}), HasSubstr("document 0 has untrained tokens outside"));
  EXPECT_THAT(problem(kSpans + 8, {0, 2, 2, 3}), HasSubstr("document 2 has untrained tokens")) << "no token between";
  EXPECT_THAT(problem(kSpans + 8, {2, 3, 0, 1}), HasSubstr("document 2 has untrained tokens")) << "disorder";
}

TEST(UntrainedOfDatasets, AShardOfVersion2IsRead) {
  const TemporaryFolder folder;
  const std::string store = folder / "store";
  const TokenDataset dataset = dataset_of({{true, true}, {true}, {true, true, true}});
  write_store(store, dataset);
  std::string old = read_file(store + "/00000.tokens");
  ASSERT_EQ(old.substr(kCount, 8), std::string(8, '\0'));
  old.erase(kCount, 8);
  old[8] = '\x02';
  write_shard(store, old, kIds);
  expect_equal(open_store(store), dataset);
  verify_store(store);
  EXPECT_FALSE(open_store(store).has_untrained());
}

// The stream, built token by token.
struct NaiveStream {
  std::vector<std::int32_t> tokens;
  std::vector<bool> is_trained;
};

NaiveStream naive_stream(const TokenDataset& dataset, const std::vector<std::vector<bool>>& is_trained,
                         std::int32_t eos, const DocumentTag& tag) {
  NaiveStream stream;
  const auto add = [&](std::int32_t id, bool trained) {
    stream.tokens.push_back(id);
    stream.is_trained.push_back(trained);
  };
  for (std::int64_t d = 0; d < dataset.num_documents(); ++d) {
    const std::vector<std::int32_t> ids = test::document_ids(dataset, d);
    const std::vector<bool>& trained = is_trained[static_cast<std::size_t>(d)];
    for (std::size_t i = 0; i <= ids.size(); ++i) {
      if (static_cast<std::int64_t>(i) == std::min(tag.position, std::ssize(ids)))
        for (const std::int32_t id : tag.ids) add(id, false);
      if (i < ids.size())
        add(ids[i], trained[i]);
      else
        add(eos, trained.back());
    }
  }
  return stream;
}

TEST(UntrainedOfSequences, IsThatOfEachTokenFromAnyPlaceWithAnyTag) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto documents = random_documents(seed, 10, 9);
    const TokenDataset dataset = dataset_of(documents);
    const DocumentTag tag{.ids = std::vector<std::int32_t>(seed % 3, 900'000),
                          .position = static_cast<std::int64_t>(seed % 4)};
    const PackedStream stream(dataset, 0, numbers_below(dataset.num_documents()), tag);
    const NaiveStream expected = naive_stream(dataset, documents, 0, tag);
    ASSERT_EQ(stream.num_tokens(), std::ssize(expected.tokens));
    for (std::int64_t begin = 0; begin < stream.num_tokens(); ++begin)
      for (std::int64_t size = 1; size <= std::min<std::int64_t>(15, stream.num_tokens() - begin); ++size) {
        std::vector<bool> is_trained(static_cast<std::size_t>(size), true);
        std::int32_t last = 0;
        for (const TokenSpan& span : stream.untrained_within(begin, size)) {
          ASSERT_TRUE(last <= span.begin && span.begin < span.end && span.end <= size);
          last = span.end;
          std::fill(is_trained.begin() + span.begin, is_trained.begin() + span.end, false);
        }
        ASSERT_TRUE(std::equal(is_trained.begin(), is_trained.end(), expected.is_trained.begin() + begin))
            << seed << " " << begin << " " << size;
      }
  }
}

TEST(UntrainedOfSequences, AddedEosIsTrainedIfTheTokenBeforeItIs) {
  const SequenceSet set = packed(dataset_of({{false, true}, {true, false}}), {.seq_len = 20, .eos = 0});
  ASSERT_EQ(set.size(), 1);
  EXPECT_THAT(set[0].tokens, ElementsAre(1, 2, 0, 3, 4, 0));
  EXPECT_THAT(set[0].untrained, ElementsAre(TokenSpan{0, 1}, TokenSpan{4, 6}));
  const std::int64_t none = kIgnoreIndex;
  EXPECT_THAT(make_batch(std::vector{set[0]}).targets, ElementsAre(2, 0, none, none, none, none));
}

// The targets that each token of a dataset has, summed over all sequences, with both packings, masks and windows.
TEST(UntrainedOfSequences, EveryTrainedTokenIsATargetOnceAndNoOtherIsOne) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const auto documents = random_documents(seed, 12, 17);
    const TokenDataset dataset = dataset_of(documents);
    std::vector<bool> is_trained = {false};  // by id; ids start with 1
    for (const auto& document : documents) is_trained.insert(is_trained.end(), document.begin(), document.end());
    std::vector<SequenceSet> sets;
    for (const Packing packing : {Packing::kConcat, Packing::kBestFit})
      for (const bool mask : {false, true})
        sets.push_back(packed(dataset, {.seq_len = 6, .eos = 999'999, .document_mask = mask, .packing = packing}));
    for (const std::int64_t stride : {2, 6}) sets.push_back(windows(dataset, {.seq_len = 6, .stride = stride}));
    for (const SequenceSet& set : sets) {
      std::vector<int> num_targets(is_trained.size(), 0);
      std::int64_t targets = 0;
      for (const Sequence& sequence : set.to_vector()) {
        const TokenBatch batch = make_batch(std::vector{sequence});
        EXPECT_GT(batch.num_targets, 0) << "such a sequence is left out";
        EXPECT_EQ(batch.num_targets, std::ranges::count_if(batch.targets, [](auto id) { return id >= 0; }));
        targets += batch.num_targets;
        for (const std::int64_t id : batch.targets)
          if (id >= 0 && id < std::ssize(num_targets)) ++num_targets[static_cast<std::size_t>(id)];
      }
      for (std::size_t id = 0; id < num_targets.size(); ++id)
        EXPECT_LE(num_targets[id], is_trained[id] ? 1 : 0) << seed << " " << id;
      const SequenceCounts& c = set.counts();
      EXPECT_EQ(c.targets, targets);
      EXPECT_EQ(c.tokens, c.targets + c.no_context + c.untrained + c.too_short);
      EXPECT_EQ(c.beyond_limit, 0);
    }
    std::int64_t first_trained = 0, all_trained = std::ranges::count(is_trained, true);
    for (const auto& document : documents) first_trained += document.front() ? 1 : 0;
    EXPECT_EQ(sets[4].counts().targets, all_trained - first_trained) << "overlapping windows predict all others";
  }
}

TEST(UntrainedOfSequences, ASequenceWithoutATargetIsLeftOut) {
  const TokenDataset dataset = dataset_of({std::vector<bool>(12, false), {false, true, true, false}});
  const SequenceSet set = packed(dataset, {.seq_len = 4});
  ASSERT_EQ(set.size(), 1);
  EXPECT_THAT(set[0].tokens, ElementsAre(13, 14, 15, 16));
  EXPECT_EQ(set.counts().documents, 1);
  EXPECT_EQ(set.counts().untrained, 13);  // and one has no context
  EXPECT_EQ(set.counts().no_context, 1);
  EXPECT_EQ(set.counts().covered, 4);
  EXPECT_FALSE(set.counts().size().is_sample);
  const SequenceSet sample = windows(dataset, {.seq_len = 4, .max_tokens = 3});
  ASSERT_EQ(sample.size(), 1) << "the limit is not spent on what is not measured";
  EXPECT_EQ(sample.counts().targets, 2);
}

TEST(UntrainedOfSequences, BytesAreThoseOfTheTextThatIsMeasured) {
  // Tokens that are trained on have 2 bytes, others 7. The last window of the first document has no target.
  const TokenDataset dataset =
      dataset_of({{false, true, true, true, false, false, false}, {true, true}, {false, false}});
  const SequenceCounts all = windows(dataset, {.seq_len = 4}).counts();
  EXPECT_EQ(all.measured, 5);
  EXPECT_EQ(all.bytes, 10);
  EXPECT_EQ(all.covered, 6);
  EXPECT_EQ(all.documents, 2);
  const SequenceCounts part = windows(dataset, {.seq_len = 3, .max_tokens = 3}).counts();
  EXPECT_EQ(part.bytes, 2 * part.measured) << "in proportion";
  EXPECT_LT(part.measured, all.measured);
}

TEST(UntrainedOfSequences, TokensOfAnEpochAreThoseOfItsSequences) {
  const TokenDataset dataset = dataset_of({std::vector<bool>(40, false), {false, true, true, false, true, true}});
  TrainLoader loader({{.dataset = dataset, .max_tokens = 12}}, {.seq_len = 4, .eos = 0});
  ASSERT_TRUE(loader.max_sequences());
  const std::int64_t per_epoch = loader.sequences_per_epoch(0);
  EXPECT_LE(per_epoch, 3);
  loader.next_step(*loader.max_sequences());
  EXPECT_LE(loader.num_tokens(0), 12);
  EXPECT_GT(loader.num_tokens(0), 8);
  const TokenDataset nothing = dataset_of({{true, false}, {false}});
  EXPECT_THAT(message_of<ConfigError>([&] { TrainLoader({{.dataset = nothing}}, {.seq_len = 4}); }),
              HasSubstr("the second of which is trained on"));
}

TEST(UntrainedOfSequences, AnotherChoiceOfThemIsOtherData) {
  const auto loader = [](bool is_trained) {
    return TrainLoader({{.dataset = dataset_of({{true, is_trained, true, true}})}}, {.seq_len = 4});
  };
  TrainLoader saved = loader(true);
  saved.next_step(1);
  TrainLoader other = loader(false);
  EXPECT_THAT(message_of<ConfigError>([&] { other.load_state(saved.state(), "s", OtherMixture::kAllowed); }),
              HasSubstr("its data"));
}

}  // namespace
}  // namespace adept::data
