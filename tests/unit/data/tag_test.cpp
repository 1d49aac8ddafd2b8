#include <gmock/gmock.h>

#include <algorithm>

#include "adept/core/random.h"
#include "adept/data/packed_stream.h"
#include "adept/data/sequences.h"
#include "adept/data/train_loader.h"
#include "data_test_util.h"

namespace adept::data {
namespace {

using testing::ElementsAre;

TEST(DocumentTag, StandsAfterTheFirstTokensOfEveryDocumentAndIsNoTarget) {
  const TokenDataset dataset = counting_dataset("a", {3, 2});
  const DocumentTag tag{.ids = {90, 91}, .position = 1};
  const SequenceSet set = packed(dataset, {.seq_len = 20, .eos = 0, .tag = tag});
  ASSERT_EQ(set.size(), 1);
  const Sequence sequence = set[0];
  EXPECT_THAT(sequence.tokens, ElementsAre(1, 90, 91, 2, 3, 0, 4, 90, 91, 5, 0));
  EXPECT_THAT(sequence.document_starts, ElementsAre(6));
  EXPECT_THAT(sequence.untrained, ElementsAre(TokenSpan{1, 3}, TokenSpan{7, 9}));
  EXPECT_EQ(sequence.num_targets(), 5);  // 2, 3, EOS; 5, EOS
  EXPECT_EQ(set.counts().targets, 5);
  EXPECT_EQ(set.counts().untrained, 4);
  EXPECT_EQ(set.counts().no_context, 2);
  const TokenBatch batch = make_batch(std::vector{sequence});
  const std::int64_t none = kIgnoreIndex;
  EXPECT_THAT(batch.targets, ElementsAre(none, none, 2, 3, 0, none, none, none, 5, 0, none));
  EXPECT_EQ(batch.num_targets, 5);
}

TEST(DocumentTag, MayBeInFrontOrLongerThanTheDocument) {
  const TokenDataset dataset = counting_dataset("a", {1, 2});
  const auto tokens = [&](std::int64_t position) {
    return packed(dataset, {.seq_len = 20, .eos = 0, .tag = {.ids = {90}, .position = position}})[0].tokens;
  };
  EXPECT_THAT(tokens(0), ElementsAre(90, 1, 0, 90, 2, 3, 0));
  EXPECT_THAT(tokens(1), ElementsAre(1, 90, 0, 2, 90, 3, 0));
  EXPECT_THAT(tokens(9), ElementsAre(1, 90, 0, 2, 3, 90, 0));
}

// The stream, built token by token.
struct Naive {
  std::vector<std::int32_t> tokens;
  std::vector<bool> is_tag;
};

Naive naive(const TokenDataset& dataset, std::int32_t eos, const DocumentTag& tag) {
  Naive stream;
  for (std::int64_t d = 0; d < dataset.num_documents(); ++d) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(dataset.document_tokens(d)));
    dataset.read(d, 0, ids);
    for (std::size_t i = 0; i <= ids.size(); ++i) {
      if (static_cast<std::int64_t>(i) == std::min(tag.position, std::ssize(ids)))
        for (const std::int32_t id : tag.ids) {
          stream.tokens.push_back(id);
          stream.is_tag.push_back(true);
        }
      stream.tokens.push_back(i < ids.size() ? ids[i] : eos);
      stream.is_tag.push_back(false);
    }
  }
  return stream;
}

TEST(DocumentTag, IsReadFromAnyPlaceInPartsOfAnySize) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    std::vector<std::int64_t> lengths;
    for (std::uint64_t i = 0; i < 12; ++i)
      lengths.push_back(1 + static_cast<std::int64_t>(random_bits(seed, RandomStream::kSampling, i) % 7));
    const TokenDataset dataset = counting_dataset("a", lengths);
    const DocumentTag tag{.ids = std::vector<std::int32_t>(1 + seed % 4, 900'000),
                          .position = static_cast<std::int64_t>(seed % 3)};
    const PackedStream stream(dataset, 0, numbers_below(dataset.num_documents()), tag);
    const Naive expected = naive(dataset, 0, tag);
    ASSERT_EQ(stream.num_tokens(), std::ssize(expected.tokens));
    for (std::int64_t begin = 0; begin < stream.num_tokens(); ++begin)
      for (std::int64_t size = 1; size <= std::min<std::int64_t>(20, stream.num_tokens() - begin); ++size) {
        std::vector<std::int32_t> tokens(static_cast<std::size_t>(size));
        stream.read(begin, tokens);
        ASSERT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.tokens.begin() + begin)) << begin << " " << size;
        std::vector<bool> is_tag(static_cast<std::size_t>(size));
        for (const TokenSpan& span : stream.untrained_within(begin, size))
          std::fill(is_tag.begin() + span.begin, is_tag.begin() + span.end, true);
        ASSERT_TRUE(std::equal(is_tag.begin(), is_tag.end(), expected.is_tag.begin() + begin)) << begin << " " << size;
      }
  }
}

TEST(DocumentTag, GivesTheSameTokensWithBothPackings) {
  const TokenDataset dataset = counting_dataset("a", {3, 30, 7, 1, 12, 9});
  const DocumentTag tag{.ids = {90, 91, 92}, .position = 1};
  std::vector<std::vector<std::int32_t>> all;
  for (const Packing packing : {Packing::kConcat, Packing::kBestFit}) {
    std::vector<std::int32_t>& ids = all.emplace_back();
    std::int64_t untrained = 0;
    const SequenceSet set = packed(dataset, {.seq_len = 8, .eos = 0, .packing = packing, .tag = tag});
    for (const Sequence& sequence : set.to_vector()) {
      ids.insert(ids.end(), sequence.tokens.begin(), sequence.tokens.end());
      for (const TokenSpan& span : sequence.untrained) {
        untrained += span.end - span.begin;
        for (std::int32_t i = span.begin; i < span.end; ++i)
          EXPECT_GE(sequence.tokens[static_cast<std::size_t>(i)], 90);
      }
      EXPECT_EQ(make_batch(std::vector{sequence}).num_targets,
                std::ranges::count_if(make_batch(std::vector{sequence}).targets, [](auto id) { return id >= 0; }));
    }
    EXPECT_EQ(untrained, 18);
    std::sort(ids.begin(), ids.end());
  }
  EXPECT_EQ(all[0], all[1]);
}

TEST(DocumentTag, IsPartOfTheDataOfATraining) {
  const auto loader = [](std::vector<std::int32_t> ids) {
    return TrainLoader({{.dataset = counting_dataset("a", {5, 9, 4}), .tag = {.ids = std::move(ids)}}},
                       {.seq_len = 8, .eos = 0});
  };
  TrainLoader tagged = loader({90});
  tagged.next_step(1);
  TrainLoader other = loader({91});
  EXPECT_THAT(message_of<ConfigError>([&] { other.load_state(tagged.state(), "s", OtherMixture::kAllowed); }),
              testing::HasSubstr("tag"));
  loader({90}).load_state(tagged.state(), "s");
}

}  // namespace
}  // namespace adept::data
